"""``tools`` and ``tool_choice`` of requests, and ``tool_calls`` of answers, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired

from pydantic import Field, JsonValue
from typing_extensions import TypedDict

from steelyard.serve.errors import invalid
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.plan import ToolPlan
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, TextPiece, ToolPiece

_NO_PARAMETERS: dict[str, JsonValue] = {"type": "object", "properties": {}, "additionalProperties": False}


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
            parameters=one.function.parameters or _NO_PARAMETERS,
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
        self._plan = plan
        self._reader = None if plan is None else plan.reader()

    @property
    def has_called(self) -> bool:
        """Whether there is a call so far."""
        return self._reader is not None and self._reader.num_calls > 0

    def deltas(self, text: str, *, ended: bool) -> list[MessageDelta]:
        """Return what more text adds to the message; with ``ended``, it is the last."""
        if self._plan is None or self._reader is None:
            return [{"content": text}] if text else []
        index = self._reader.num_calls - 1
        found: list[MessageDelta] = []
        for piece in self._reader.feed(text) + (self._reader.close() if ended else []):
            index += isinstance(piece, CallBegins)
            found.append(_delta(piece, index, self._plan))
        return found


def _delta(piece: ToolPiece, index: int, plan: ToolPlan) -> MessageDelta:
    match piece:
        case TextPiece():
            return {"content": piece.text}
        case CallBegins():
            function: FunctionAnswer = {"name": piece.name, "arguments": ""}
            head: ToolCallAnswer = {"index": index, "id": plan.new_call_id(), "type": "function", "function": function}
            return {"tool_calls": [head]}
        case ArgumentsPiece():
            return {"tool_calls": [{"index": index, "function": {"arguments": piece.text}}]}


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
