"""``tools`` and ``tool_choice`` of requests, and ``tool_calls`` of answers, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.serve.errors import invalid
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.tools.answer import AnswerReader
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import ToolFormat
from steelyard.serve.tools.plan import ToolPlan, plan_tools
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, TextPiece, ToolPiece

NO_PARAMETERS: dict[str, JsonValue] = {"type": "object", "properties": {}, "additionalProperties": False}


class FunctionField(WireModel):
    """``function`` of a tool."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = Field(default=None, description="Calls that must be made are strict, whatever this says.")


class ToolField(WireModel):
    """One of ``tools``."""

    type: Literal["function"]
    function: FunctionField


def read_tools(given: Sequence[ToolField] | None) -> list[Tool]:
    """Return the tools of a request.

    Raises:
        ParamsError: naming the part that is wrong or over a limit.
    """
    return [
        Tool(
            name=one.function.name,
            description=one.function.description or "",
            parameters=one.function.parameters or NO_PARAMETERS,
            strict=one.function.strict is True,
            field=f"tools[{i}].function",
        )
        for i, one in enumerate(given or ())
    ]


def read_tool_choice(given: str | dict[str, JsonValue] | None, *, has_tools: bool) -> ToolChoice:
    """Return what ``tool_choice`` says: a word, or ``{"type": "function", "function": {"name": …}}``.

    Raises:
        ApiError: if it says anything else.
    """
    if given is None:
        return ToolChoice(ToolMode.AUTO if has_tools else ToolMode.NONE)
    if isinstance(given, str):
        modes = {mode.value: mode for mode in ToolMode}
        if given not in modes:
            message = f"tool_choice: {given!r:.40} is not one of {', '.join(modes)}. Give one of them."
            raise invalid(message, param="tool_choice")
        return ToolChoice(modes[given])
    function = given.get("function") if given.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        message = 'tool_choice: it is neither a word nor {"type": "function", "function": {"name": …}}.'
        raise invalid(message, param="tool_choice")
    return ToolChoice(ToolMode.REQUIRED, name)


def decide(
    tools: Sequence[Tool], choice: ToolChoice, style: ToolFormat, *, may_decide: bool, parallel: bool
) -> ToolPlan:
    """Return what the tools mean for a model that writes calls as ``style`` says.

    Args:
        tools: of the request.
        choice: whether they are called.
        style: the model's.
        may_decide: it may be left to the model whether it calls any.
        parallel: there may be several calls.

    Raises:
        ApiError: if ``choice`` leaves open what must not be.
        ParamsError: if a tool is wrong, or one must be called that is not there.
    """
    if tools and choice.mode is ToolMode.AUTO and not may_decide:
        message = "tool_choice: auto is switched off on this server. Set it to none, or to tools that must be called."
        raise invalid(message, param="tool_choice")
    return plan_tools(tools, choice, style, parallel=parallel)


class FunctionAnswer(TypedDict):
    """``function`` of a call, or what is added to it."""

    name: NotRequired[str]
    arguments: str


class ToolCallAnswer(TypedDict):
    """One of ``tool_calls``, or what is added to it; only the latter has an index."""

    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionAnswer


class MessageDelta(TypedDict, total=False):
    """What is added to a message of the assistant."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCallAnswer]


class CallWriter:
    """Writes one completion's text as content and tool calls, as it grows.

    Args:
        plan: of the request; ``None`` if all is content.
    """

    def __init__(self, plan: ToolPlan | None) -> None:
        self._plan, self._reader, self._num_calls = plan, AnswerReader(plan), 0

    @property
    def has_called(self) -> bool:
        """Whether there is a call so far."""
        return self._reader.has_called

    def deltas(self, text: str, *, ended: bool) -> list[MessageDelta]:
        """Return what more text adds to the message; with ``ended``, it is the last."""
        return [self._delta(piece) for piece in self._reader.feed(text, ended=ended)]

    def _delta(self, piece: ToolPiece) -> MessageDelta:
        match piece:
            case TextPiece():
                return {"content": piece.text}
            case CallBegins():
                assert self._plan is not None
                self._num_calls += 1
                function: FunctionAnswer = {"name": piece.name, "arguments": ""}
                at, name = self._num_calls - 1, self._plan.new_call_id()
                return {"tool_calls": [{"index": at, "id": name, "type": "function", "function": function}]}
            case ArgumentsPiece():
                return {"tool_calls": [{"index": self._num_calls - 1, "function": {"arguments": piece.text}}]}


def whole_message(deltas: Sequence[MessageDelta]) -> tuple[str, list[ToolCallAnswer]]:
    """Return the content and the calls that deltas add up to."""
    calls: list[ToolCallAnswer] = []
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                function: FunctionAnswer = {"name": call["function"]["name"], "arguments": ""}
                calls.append({"id": call["id"], "type": "function", "function": function})
            calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    return "".join(delta.get("content", "") for delta in deltas), calls
