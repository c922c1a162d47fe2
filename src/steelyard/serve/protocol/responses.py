"""``/v1/responses``, OpenAI's other way to ask: the request as a chat of ours, and how its answer is told.

Texts and functions: other tools, images and reasoning are refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from pydantic import Field, JsonValue

from steelyard.core.constraint import Constraint
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason
from steelyard.serve.errors import api_error, invalid
from steelyard.serve.generation import Generation
from steelyard.serve.protocol.response_items import (
    FunctionCall,
    InputItem,
    Item,
    ItemWriter,
    Turn,
    answered_turn,
    turns_of,
)
from steelyard.serve.protocol.tools import NO_PARAMETERS, decide, read_tool_choice
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import ToolFormat
from steelyard.serve.tools.plan import ToolPlan

_REFUSED = (
    "conversation", "include", "max_tool_calls", "prompt", "reasoning", "top_logprobs",
)  # fmt: skip


class TextFormat(WireModel):
    """``text.format``."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, max_length=256)
    description: str | None = Field(default=None, description="Accepted and ignored.")
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = Field(default=None, description="Every schema is enforced, whatever this says.")

    def constraint(self) -> Constraint | None:
        """Return what the text must look like, if it matters.

        Raises:
            ApiError: if there is a schema without its type, or the type without a schema.
            ParamsError: if the schema is over a limit.
        """
        if (self.type == "json_schema") != (self.json_schema is not None):
            message = "text.format.schema: it goes with the type json_schema. Give both or neither."
            raise invalid(message, param="text.format.schema")
        if self.json_schema is not None:
            return Constraint.json_schema(self.json_schema, "text.format.schema")
        return Constraint.json_object("text.format") if self.type == "json_object" else None


class TextField(WireModel):
    """``text``."""

    format: TextFormat | None = None


class FunctionTool(WireModel):
    """One of ``tools``."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = Field(default=None, description="Calls that must be made are strict, whatever this says.")

    def tool(self, field: str) -> Tool:
        """Return it as a tool of ours that stands at ``field``.

        Raises:
            ParamsError: naming the part that is wrong or over a limit.
        """
        return Tool(
            name=self.name,
            description=self.description or "",
            parameters=self.parameters or NO_PARAMETERS,
            strict=self.strict is True,
            field=field,
        )


class NamedFunction(WireModel):
    """``tool_choice``, if one must be called."""

    type: Literal["function"]
    name: str


class ResponsesRequest(WireModel):
    """The body of ``POST /v1/responses``."""

    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = Field(default=None, description="Keep the answer for a while, as by default.")
    background: bool | None = Field(default=None, description="Answer whether or not the client stays.")
    metadata: dict[str, str] | None = Field(default=None, description="Comes back with the answer.")
    text: TextField | None = None
    truncation: Literal["disabled"] | None = None
    timeout: float | None = Field(default=None, gt=0, le=1e6, description="Seconds after which the answer ends.")

    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None

    user: str | None = Field(default=None, description="Accepted and ignored, as the next ones.")
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    conversation: JsonValue = Field(default=None, description="Refused, as the next ones are.")
    include: list[str] | None = None
    max_tool_calls: int | None = None
    prompt: JsonValue = None
    reasoning: JsonValue = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Raise :class:`ApiError` for what is not supported here, or if nothing is asked."""
        for name in _REFUSED:
            if getattr(self, name):
                message = f"{name}: it is not supported here. Leave it out."
                raise invalid(message, param=name, code="unsupported_parameter")
        if self.background and self.store is False:
            raise invalid("background: such an answer must be kept. Leave store out.", param="background")
        if not self.input:
            raise invalid("input: there is none. Give a text or messages.", param="input")
        for i, item in enumerate(self.input):
            if isinstance(item, FunctionCall) and not item.is_well_formed:
                param = f"input[{i}].arguments"
                raise invalid(f"{param}: they are no JSON object in a text. Send them as they came.", param=param)

    def turns(self) -> tuple[Turn, ...]:
        """Return what the input says, without instructions and what came before."""
        if isinstance(self.input, str):
            return ({"role": "user", "content": self.input},)
        return tuple(turns_of(self.input))

    def tool_plan(self, style: ToolFormat, *, may_decide: bool) -> ToolPlan:
        """Return what the tools mean for a model that writes calls as ``style`` says; see :func:`~.tools.decide`."""
        tools = [tool.tool(f"tools[{i}]") for i, tool in enumerate(self.tools or ())]
        match self.tool_choice:
            case NamedFunction(name=name):
                choice = ToolChoice(ToolMode.REQUIRED, name)
            case word:
                choice = read_tool_choice(word, has_tools=bool(tools))
        return decide(tools, choice, style, may_decide=may_decide, parallel=self.parallel_tool_calls is not False)

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return ``defaults`` with what the request says in their place; without a limit the context is filled.

        Raises:
            ApiError: if ``text.format`` contradicts itself.
            ParamsError: if a value is out of range.
        """
        given = {"temperature": self.temperature, "top_p": self.top_p}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        form = None if self.text is None or self.text.format is None else self.text.format.constraint()
        return replace(defaults, max_tokens=self.max_output_tokens, constraint=form, **changes)


ResponseAnswer = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesDialect:
    """Writes a generation as a response, or as the events in which one grows.

    Attributes:
        request: what was asked.
        id: the answer's.
        created: seconds since 1970.
        keep: called with every answer that has ended, and the turn that it is.
    """

    request: ResponsesRequest
    id: str
    created: int
    keep: Callable[[ResponseAnswer, Turn], None]

    def answer(self, generation: Generation) -> ResponseAnswer:
        """Return the whole answer."""
        (completion,) = generation.outputs[0].outputs
        writer = ItemWriter(generation.request.tools, count())
        writer.feed(completion.text)
        writer.end(_item_status(completion.finish_reason))
        return self._ended(generation, writer.items)

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the response's beginning, its items as they grow, and its end; an error is an event, too."""
        writer = ItemWriter(generation.request.tools, count())
        status = "queued" if self.request.background else "in_progress"
        begun = self._response(generation, status)
        try:
            yield writer.event("created", response=begun)
            yield writer.event(status, response=begun)
            async for gain in generation.increments():
                if begun["status"] == "queued":
                    begun = self._response(generation, "in_progress")
                    yield writer.event("in_progress", response=begun)
                for told in writer.feed(gain.text):
                    yield told
                if gain.finish_reason is not None:
                    for told in writer.end(_item_status(gain.finish_reason)):
                        yield told
            ended = self._ended(generation, writer.items)
            yield writer.event("completed" if ended["status"] == "completed" else "incomplete", response=ended)
        except Exception as error:  # the status has gone out; the client is told in an event
            told_error = api_error(error).body["error"]
            failure = {"code": told_error["code"] or "server_error", "message": told_error["message"]}
            yield writer.event("failed", response={**begun, "status": "failed", "error": failure})

    def _ended(self, generation: Generation, items: list[Item]) -> ResponseAnswer:
        (completion,) = generation.outputs[0].outputs
        usage, status = generation.usage, _status(completion.finish_reason)
        ended = self._response(generation, status) | {
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": items,
            "usage": {
                "input_tokens": usage.num_prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.num_cached_tokens},
                "output_tokens": usage.num_completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
            },
        }
        self.keep(ended, answered_turn(items))
        return ended

    def _response(self, generation: Generation, status: str) -> ResponseAnswer:
        asked, params = self.request, generation.request.params
        form, choice = asked.text.format if asked.text else None, asked.tool_choice
        return {
            "id": self.id,
            "object": "response",
            "background": asked.background is True,
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": generation.model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "store": asked.store is not False,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"} if form is None else _echoed(form)},
            "tool_choice": _echoed(choice) if isinstance(choice, NamedFunction) else choice or "auto",
            "tools": [{"parameters": None, "strict": False, **_echoed(tool)} for tool in asked.tools or ()],
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _status(reason: FinishReason | None) -> str:
    return "cancelled" if reason is FinishReason.CANCELLED else _item_status(reason)


def _item_status(reason: FinishReason | None) -> str:
    return "completed" if reason is FinishReason.STOP else "incomplete"


def _echoed(given: WireModel) -> dict[str, JsonValue]:
    """Return a field as it was given."""
    return given.model_dump(mode="json", by_alias=True, exclude_none=True)
