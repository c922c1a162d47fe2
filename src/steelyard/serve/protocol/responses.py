"""``/v1/responses``, OpenAI's other way to ask: the request as a chat of ours, and how its answer is told.

Texts alone: tools, images, reasoning and answers in the background are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, FinishReason
from steelyard.serve.errors import api_error, invalid
from steelyard.serve.generation import Generation
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent

Turn = Mapping[str, str]
_REFUSED = (
    "background", "conversation", "include", "max_tool_calls", "prompt", "reasoning", "tools", "tool_choice",
    "top_logprobs",
)  # fmt: skip


class InputText(WireModel):
    """A piece of a message; an answer's own may be given back as it came."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[JsonValue] | None = Field(default=None, description="Accepted and ignored, as the next one.")
    logprobs: list[JsonValue] | None = None


class InputMessage(WireModel):
    """One turn; an answer's own may be given back as it came."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]
    id: str | None = Field(default=None, description="Accepted and ignored, as the next one.")
    status: str | None = None

    @property
    def turn(self) -> Turn:
        """The turn as chat templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(WireModel):
    """``text.format``."""

    type: Literal["text"]


class TextField(WireModel):
    """``text``."""

    format: TextFormat | None = None


class ResponsesRequest(WireModel):
    """The body of ``POST /v1/responses``."""

    model: str | None = None
    input: str | list[InputMessage]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = Field(default=None, description="Keep the answer for a while, as by default.")
    metadata: dict[str, str] | None = Field(default=None, description="Comes back with the answer.")
    text: TextField | None = None
    truncation: Literal["disabled"] | None = None
    timeout: float | None = Field(default=None, gt=0, le=1e6, description="Seconds after which the answer ends.")

    user: str | None = Field(default=None, description="Accepted and ignored, as the next ones.")
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    background: bool | None = Field(default=None, description="Refused, as the next ones are.")
    conversation: JsonValue = None
    include: list[str] | None = None
    max_tool_calls: int | None = None
    prompt: JsonValue = None
    reasoning: JsonValue = None
    tools: list[JsonValue] | None = None
    tool_choice: JsonValue = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Raise :class:`ApiError` for what is not supported here, or if nothing is asked."""
        for name in _REFUSED:
            if getattr(self, name):
                message = f"{name}: it is not supported here. Leave it out."
                raise invalid(message, param=name, code="unsupported_parameter")
        if not self.input:
            raise invalid("input: there is none. Give a text or messages.", param="input")

    def turns(self) -> tuple[Turn, ...]:
        """Return what the input says, without instructions and what came before."""
        if isinstance(self.input, str):
            return ({"role": "user", "content": self.input},)
        return tuple(message.turn for message in self.input)

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return ``defaults`` with what the request says in their place; without a limit the context is filled.

        Raises:
            ParamsError: if a value is out of range.
        """
        given = {"temperature": self.temperature, "top_p": self.top_p}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(defaults, max_tokens=self.max_output_tokens, **changes)


class OutputText(TypedDict):
    """A piece of the answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue]
    logprobs: list[JsonValue]


class OutputMessage(TypedDict):
    """The answer's message."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: str
    content: list[OutputText]


ResponseAnswer = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesDialect:
    """Writes a generation as a response, or as the events in which one grows.

    Attributes:
        request: what was asked.
        id: the answer's.
        message_id: of the one message in it.
        created: seconds since 1970.
        keep: called with every answer that has ended, and its text.
    """

    request: ResponsesRequest
    id: str
    message_id: str
    created: int
    keep: Callable[[ResponseAnswer, str], None]
    _numbers: count[int] = field(default_factory=count, init=False)

    def answer(self, generation: Generation) -> ResponseAnswer:
        """Return the whole answer."""
        (completion,) = generation.outputs[0].outputs
        ended = self._ended(generation, completion)
        self.keep(ended, completion.text)
        return ended

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the response's beginning, its one message as it grows, and its end; an error is an event, too."""
        at = {"item_id": self.message_id, "output_index": 0, "content_index": 0}
        begun = self._response(generation, "in_progress")
        try:
            yield self._event("response.created", response=begun)
            yield self._event("response.in_progress", response=begun)
            yield self._event("response.output_item.added", output_index=0, item=self._message("in_progress"))
            yield self._event("response.content_part.added", **at, part=_part(""))
            async for gain in generation.increments():
                if gain.text:
                    yield self._event("response.output_text.delta", **at, delta=gain.text, logprobs=[])
            (completion,) = generation.outputs[0].outputs
            ended = self.answer(generation)
            yield self._event("response.output_text.done", **at, text=completion.text, logprobs=[])
            yield self._event("response.content_part.done", **at, part=_part(completion.text))
            yield self._event("response.output_item.done", output_index=0, item=ended["output"][0])
            yield self._event(f"response.{ended['status']}", response=ended)
        except Exception as error:  # the status has gone out; the client is told in an event
            told = api_error(error).body["error"]
            failure = {"code": told["code"] or "server_error", "message": told["message"]}
            yield self._event("response.failed", response={**begun, "status": "failed", "error": failure})

    def _event(self, kind: str, **more: Any) -> ServerEvent:
        return ServerEvent({"type": kind, "sequence_number": next(self._numbers), **more}, event=kind)

    def _ended(self, generation: Generation, completion: CompletionOutput) -> ResponseAnswer:
        usage, is_whole = generation.usage, completion.finish_reason is FinishReason.STOP
        status = "completed" if is_whole else "incomplete"
        return self._response(generation, status) | {
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": [self._message(status, (completion.text,))],
            "usage": {
                "input_tokens": usage.num_prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.num_cached_tokens},
                "output_tokens": usage.num_completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
            },
        }

    def _message(self, status: str, texts: Sequence[str] = ()) -> OutputMessage:
        content = [_part(text) for text in texts]
        return {"type": "message", "id": self.message_id, "role": "assistant", "status": status, "content": content}

    def _response(self, generation: Generation, status: str) -> ResponseAnswer:
        asked, params = self.request, generation.request.params
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": generation.model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": asked.previous_response_id,
            "store": asked.store is not False,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _part(text: str) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
