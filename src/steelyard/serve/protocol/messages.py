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
from steelyard.serve.protocol.message_blocks import (
    BlockWriter,
    InputBlock,
    TextBlock,
    Turn,
    message_event,
    text_of,
    turns_of,
)
from steelyard.serve.protocol.tools import decide
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import ToolFormat
from steelyard.serve.tools.plan import ToolPlan

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "tool": ToolMode.REQUIRED, "none": ToolMode.NONE}


class MessageParam(WireModel):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[InputBlock]


class MessagesMetadata(WireModel):
    """``metadata``."""

    user_id: str | None = Field(default=None, description="Accepted and ignored.")


class ThinkingField(WireModel):
    """``thinking``."""

    type: Literal["disabled"]


class ToolParam(WireModel):
    """One of ``tools``."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, JsonValue]
    strict: bool | None = Field(default=None, description="Calls that must be made are strict, whatever this says.")
    cache_control: dict[str, JsonValue] | None = Field(default=None, description="Accepted and ignored, as the next.")
    eager_input_streaming: bool | None = None

    def tool(self, field: str) -> Tool:
        """Return it as a tool of ours that stands at ``field``.

        Raises:
            ParamsError: naming the part that is wrong or over a limit.
        """
        return Tool(
            name=self.name,
            description=self.description or "",
            parameters=self.input_schema,
            strict=self.strict is True,
            field=field,
            schema_field="input_schema",
        )


class ToolChoiceParam(WireModel):
    """``tool_choice``; a name goes with the type ``tool``."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountRequest(WireModel):
    """The body of ``POST /v1/messages/count_tokens``, and the part of a request that becomes its prompt."""

    model: str
    messages: list[MessageParam] = Field(min_length=1)
    system: str | list[TextBlock] | None = None
    thinking: ThinkingField | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None

    def check(self) -> None:
        """Raise :class:`ApiError` for turns and choices that contradict themselves."""
        if self.continues and "tool_calls" in self.turns()[-1]:
            raise invalid("messages: the last of them calls tools. Send what they came to.", param="messages")
        chosen = self.tool_choice
        if chosen is not None and (chosen.type == "tool") != (chosen.name is not None):
            message = "tool_choice.name: it goes with the type tool. Give both or neither."
            raise invalid(message, param="tool_choice.name")

    @property
    def continues(self) -> bool:
        """Whether the last turn is the beginning of the answer."""
        return len(self.messages) > 1 and self.messages[-1].role == "assistant"

    def turns(self) -> list[Turn]:
        """Return the conversation as chat templates expect it."""
        system = [] if self.system is None else [{"role": "system", "content": text_of(self.system)}]
        return [*system, *(turn for one in self.messages for turn in turns_of(one.role, one.content))]

    def tool_plan(self, style: ToolFormat, *, may_decide: bool) -> ToolPlan:
        """Return what the tools mean for a model that writes calls as ``style`` says; see :func:`~.tools.decide`."""
        tools = [tool.tool(f"tools[{i}]") for i, tool in enumerate(self.tools or ())]
        chosen = self.tool_choice or ToolChoiceParam(type="auto" if tools else "none")
        choice = ToolChoice(_MODES[chosen.type], chosen.name)
        return decide(tools, choice, style, may_decide=may_decide, parallel=not chosen.disable_parallel_tool_use)


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


class AnthropicUsage(TypedDict):
    """``usage``: the prompt's tokens are told apart by whether the prefix cache held them."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(TypedDict):
    """``message``."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
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
        writer = BlockWriter(generation.request.tools)
        writer.feed(completion.text, ended=True)
        return {
            **self._begun(generation),
            "content": writer.content(),
            **_ended(completion.finish_reason, completion.stop_reason, writer),  # type: ignore[typeddict-item]
        }

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the message's beginning, its blocks as they grow, and its end; an error comes as an event, too."""
        writer = BlockWriter(generation.request.tools)
        try:
            yield message_event("message_start", message=self._begun(generation))
            yield message_event("ping")
            async for gain in generation.increments():
                for told in writer.feed(gain.text, ended=gain.finish_reason is not None):
                    yield told
                if gain.finish_reason is not None:
                    ended = _ended(gain.finish_reason, gain.stop_reason, writer)
                    yield message_event("message_delta", delta=ended, usage=_usage(generation.usage))
            yield message_event("message_stop")
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


def _ended(reason: FinishReason | None, stop: str | int | None, writer: BlockWriter) -> Mapping[str, str | None]:
    """Return why a message ended; one that was cut short reached its limit, as far as clients know."""
    if reason is not FinishReason.STOP:
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "tool_use" if writer.has_called else "end_turn", "stop_sequence": None}


def _usage(usage: Usage) -> AnthropicUsage:
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
    }
