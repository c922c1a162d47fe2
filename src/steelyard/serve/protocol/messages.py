"""``/v1/messages``, Anthropic's dialect: the request as a chat of ours, and how its answer is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason
from steelyard.serve.errors import api_error, invalid
from steelyard.serve.generation import Generation, Usage
from steelyard.serve.protocol.anthropic_errors import anthropic_error
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent

StopReason = Literal["end_turn", "max_tokens", "stop_sequence"]


class TextBlock(WireModel):
    """A piece of text; what is said of caching has no effect, for every prefix is cached."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, JsonValue] | None = Field(default=None, description="Accepted and ignored.")


class MessageParam(WireModel):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[TextBlock]


class MessagesMetadata(WireModel):
    """``metadata``."""

    user_id: str | None = Field(default=None, description="Accepted and ignored.")


class ThinkingField(WireModel):
    """``thinking``."""

    type: Literal["disabled"]


class CountRequest(WireModel):
    """The body of ``POST /v1/messages/count_tokens``, and the part of a request that becomes its prompt."""

    model: str
    messages: list[MessageParam] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    thinking: ThinkingField | None = None
    tools: list[JsonValue] | None = Field(default=None, description="Refused unless empty.")
    tool_choice: JsonValue = Field(default=None, description="Refused.")

    def check(self) -> None:
        """Raise :class:`ApiError` for what is not supported here."""
        for name in ("tools", "tool_choice"):
            if getattr(self, name):
                message = f"{name}: it is not supported here. /v1/chat/completions takes tools."
                raise invalid(message, param=name, code="unsupported_parameter")

    @property
    def continues(self) -> bool:
        """Whether the last turn is the beginning of the answer."""
        return len(self.messages) > 1 and self.messages[-1].role == "assistant"

    def turns(self) -> list[dict[str, str]]:
        """Return the conversation as chat templates expect it."""
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        return system + [{"role": one.role, "content": _text(one.content)} for one in self.messages]


class MessagesRequest(CountRequest):
    """The body of ``POST /v1/messages``."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(default=None, ge=1)
    metadata: MessagesMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = Field(default=None, description="Accepted and ignored.")

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return ``defaults`` with what the request says in their place.

        Raises:
            ParamsError: if a value is out of range.
        """
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
            "stop": self.stop_sequences,
        }  # fmt: skip
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


class AnthropicUsage(TypedDict):
    """``usage``: the prompt's tokens are told apart by whether the prefix cache held them."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class ContentBlock(TypedDict):
    """A piece of the answer."""

    type: Literal["text"]
    text: str


class MessageAnswer(TypedDict):
    """``message``."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage


class CountAnswer(TypedDict):
    """The tokens of a prompt."""

    input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesDialect:
    """Writes a generation as a message, or as the events in which one grows.

    Attributes:
        id: the answer's.
    """

    id: str

    def answer(self, generation: Generation) -> MessageAnswer:
        """Return the whole answer."""
        (completion,) = generation.outputs[0].outputs
        return {
            **self._begun(generation),
            "content": [{"type": "text", "text": completion.text}] if completion.text else [],
            **_ended(completion.finish_reason, completion.stop_reason),  # type: ignore[typeddict-item]
        }

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the message's beginning, its one block of text, and its end; an error comes as an event, too."""
        try:
            yield _event("message_start", message=self._begun(generation))
            yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            yield _event("ping")
            async for gain in generation.increments():
                if gain.text:
                    yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": gain.text})
                if gain.finish_reason is not None:
                    yield _event("content_block_stop", index=0)
                    ended = _ended(gain.finish_reason, gain.stop_reason)
                    yield _event("message_delta", delta=ended, usage=_usage(generation.usage))
            yield _event("message_stop")
        except Exception as error:  # the status has gone out; the client is told in an event
            failure = api_error(error)
            yield ServerEvent(anthropic_error(failure.status, failure.message), event="error")

    def _begun(self, generation: Generation) -> MessageAnswer:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": generation.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(generation.usage),
        }


def _event(kind: str, **more: Any) -> ServerEvent:
    return ServerEvent({"type": kind, **more}, event=kind)


def _ended(reason: FinishReason | None, stop: str | int | None) -> Mapping[str, str | None]:
    """Return why a message ended; one that was cut short reached its limit, as far as clients know."""
    if reason is FinishReason.STOP:
        sequence = stop if isinstance(stop, str) else None
        return {"stop_reason": "end_turn" if sequence is None else "stop_sequence", "stop_sequence": sequence}
    return {"stop_reason": "max_tokens", "stop_sequence": None}


def _usage(usage: Usage) -> AnthropicUsage:
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
    }
