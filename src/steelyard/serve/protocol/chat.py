"""``/v1/chat/completions``: the request, and the dialect that answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, FinishReason
from steelyard.serve.errors import invalid
from steelyard.serve.generation import Generation, Increment
from steelyard.serve.protocol.logprobs import ChatLogprobs, PromptLogprobs, chat_logprobs, prompt_logprobs
from steelyard.serve.protocol.structured import StructuredFields
from steelyard.serve.protocol.tools import (
    CallWriter,
    MessageDelta,
    ToolCallAnswer,
    ToolField,
    decide,
    read_tool_choice,
    read_tools,
    whole_message,
)
from steelyard.serve.protocol.wire import (
    GenerationFields,
    UsageAnswer,
    finish_word,
    stop_reason,
    usage_answer,
)
from steelyard.serve.sse import DONE, ServerEvent
from steelyard.serve.tools.formats import ToolFormat
from steelyard.serve.tools.plan import ToolPlan

JsonObject = dict[str, JsonValue]


class ChatRequest(GenerationFields, StructuredFields):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[JsonObject] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[Literal["text"]] | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    reasoning_effort: str | None = None

    tools: list[ToolField] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    functions: JsonValue = Field(default=None, description="Refused: tools have taken their place.")
    function_call: JsonValue = Field(default=None, description="Refused, too.")

    def check(self) -> None:
        """Raise :class:`ApiError` for fields that contradict each other."""
        self.check_stream()
        for name, successor in (("functions", "tools"), ("function_call", "tool_choice")):
            if getattr(self, name) is not None:
                message = f"{name}: it is not supported. Give {successor} instead."
                raise invalid(message, param=name, code="unsupported_parameter")
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            message = "max_tokens: it contradicts max_completion_tokens. Give one of them."
            raise invalid(message, param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs: it needs logprobs. Set logprobs to true.", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            message = "continue_final_message: it contradicts add_generation_prompt. Give one of them."
            raise invalid(message, param="continue_final_message")
        if self.continue_final_message and not self._ends_with_text:
            message = "continue_final_message: the last message is no assistant's text. Add one to be continued."
            raise invalid(message, param="continue_final_message")

    @property
    def _ends_with_text(self) -> bool:
        last = self.messages[-1]
        return len(self.messages) > 1 and last.get("role") == "assistant" and isinstance(last.get("content"), str)

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return the sampling parameters; without a limit the answer may fill the context."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling_params(defaults, max_tokens=limit, logprobs=logprobs, constraint=self.constraint())

    def tool_plan(self, style: ToolFormat, *, may_decide: bool) -> ToolPlan:
        """Return what the tools mean for a model that writes calls as ``style`` says.

        Args:
            style: the model's.
            may_decide: it may be left to the model whether it calls any.

        Raises:
            ApiError: if ``tool_choice`` is wrong, or leaves open what must not be.
            ParamsError: if a tool is wrong, or one must be called that is not there.
        """
        tools = read_tools(self.tools)
        choice = read_tool_choice(self.tool_choice, has_tools=bool(tools))
        parallel = self.parallel_tool_calls is not False
        return decide(tools, choice, style, may_decide=may_decide, parallel=parallel)

    def template_arguments(self) -> dict[str, Any]:
        """Return what the chat template gets by name."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **(self.chat_template_kwargs or {})}

    def template_messages(self) -> list[JsonObject]:
        """Return the messages in roles that templates know: a developer's are the system's."""
        return [{**one, "role": "system"} if one.get("role") == "developer" else one for one in self.messages]


class ChatMessage(TypedDict):
    """A message of the assistant."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallAnswer]]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    stop_reason: str | int | None


class ChatAnswer(TypedDict):
    """``chat.completion``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: UsageAnswer
    prompt_logprobs: PromptLogprobs | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDialect:
    """Writes a generation as ``chat.completion`` and ``chat.completion.chunk``.

    Attributes:
        request: what was asked.
        id: the answer's.
        created: seconds since 1970.
    """

    request: ChatRequest
    id: str
    created: int

    def answer(self, generation: Generation) -> ChatAnswer:
        """Return the whole answer."""
        (output,) = generation.outputs
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": generation.model,
            "system_fingerprint": None,
            "choices": [self._choice(completion, generation) for completion in output.outputs],
            "usage": usage_answer(generation.usage),
            "prompt_logprobs": prompt_logprobs(output.prompt_logprobs, generation.tokenizer),
        }

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the chunks as the completions grow."""
        writers = [CallWriter(generation.request.tools) for _ in range(generation.request.params.n)]
        for index in range(len(writers)):
            yield self._chunk(generation, self._delta(index, {"role": "assistant", "content": ""}))
        async for gain in generation.increments():
            writer = writers[gain.index]
            for choice in self._gained(
                gain, writer.deltas(gain.text, ended=gain.finish_reason is not None), generation
            ):
                yield self._chunk(generation, choice)
            if gain.finish_reason is not None:
                yield self._chunk(generation, self._end(gain, has_called=writer.has_called))
        if self.request.includes_usage:
            yield self._chunk(generation, None)
        yield DONE

    def _choice(self, completion: CompletionOutput, generation: Generation) -> ChatChoice:
        text, calls = whole_message(CallWriter(generation.request.tools).deltas(completion.text, ended=True))
        message: ChatMessage = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": completion.index,
            "message": message,
            "logprobs": self._logprobs(completion.logprobs, generation),
            "finish_reason": _chat_finish_word(completion.finish_reason, has_called=bool(calls)),
            "stop_reason": stop_reason(completion.finish_reason, completion.stop_reason),
        }

    def _chunk(self, generation: Generation, choice: dict[str, Any] | None) -> ServerEvent:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": generation.model,
            "system_fingerprint": None,
            "choices": [] if choice is None else [choice],
        }
        if self.request.includes_usage:
            told = choice is None or self.request.always_includes_usage
            chunk["usage"] = usage_answer(generation.usage) if told else None
        return ServerEvent(chunk)

    def _gained(
        self, gain: Increment, deltas: Sequence[MessageDelta], generation: Generation
    ) -> Iterator[dict[str, Any]]:
        """Yield an increment's deltas; its log-probabilities go with the first, even if that has no text yet."""
        logprobs = self._logprobs(gain.logprobs, generation)
        nothing: list[MessageDelta] = [{"content": ""}] if gain.logprobs else []
        for delta in deltas or nothing:
            yield self._delta(gain.index, delta, logprobs)
            logprobs = None

    def _delta(self, index: int, delta: MessageDelta, logprobs: ChatLogprobs | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _end(self, gain: Increment, *, has_called: bool) -> dict[str, Any]:
        stop = stop_reason(gain.finish_reason, gain.stop_reason)
        ended = {"finish_reason": _chat_finish_word(gain.finish_reason, has_called=has_called), "stop_reason": stop}
        return {**self._delta(gain.index, {}), **ended}

    def _logprobs(self, tokens: Any, generation: Generation) -> ChatLogprobs | None:
        if tokens is None or generation.tokenizer is None:
            return None
        return chat_logprobs(tokens, generation.tokenizer)


def _chat_finish_word(
    reason: FinishReason | None, *, has_called: bool
) -> Literal["stop", "length", "tool_calls"] | None:
    return "tool_calls" if has_called and reason is FinishReason.STOP else finish_word(reason)
