"""The items of responses: messages, calls and their outputs as turns of ours, and an answer as items that grow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from pydantic import Field, JsonValue

from steelyard.serve.identity import new_id
from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent
from steelyard.serve.tools.answer import AnswerReader
from steelyard.serve.tools.plan import ToolPlan
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, TextPiece, ToolPiece

Turn = Mapping[str, Any]
Item = dict[str, Any]
_IGNORED = "Accepted and ignored, as the next one."


class InputText(WireModel):
    """A piece of a message; an answer's own may be given back as it came."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[JsonValue] | None = Field(default=None, description=_IGNORED)
    logprobs: list[JsonValue] | None = None


class InputMessage(WireModel):
    """One turn; an answer's own may be given back as it came."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]
    id: str | None = Field(default=None, description=_IGNORED)
    status: str | None = None


class FunctionCall(WireModel):
    """A call that the model made; an answer's own may be given back as it came."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = Field(default=None, description=_IGNORED)
    status: str | None = None

    @property
    def is_well_formed(self) -> bool:
        """Whether its arguments are a JSON object in a text."""
        try:
            return isinstance(json.loads(self.arguments or "{}"), dict)
        except (ValueError, RecursionError):
            return False


class FunctionCallOutput(WireModel):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = Field(default=None, description=_IGNORED)
    status: str | None = None


InputItem = InputMessage | FunctionCall | FunctionCallOutput


def turns_of(items: Sequence[InputItem]) -> list[Turn]:
    """Return items as turns in OpenAI's older form: calls go with the assistant's words before them."""
    turns: list[Turn] = []
    for item in items:
        match item:
            case InputMessage():
                role = "system" if item.role == "developer" else item.role
                turns.append({"role": role, "content": _text(item.content)})
            case FunctionCallOutput():
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            case FunctionCall():
                said = turns.pop() if turns and turns[-1]["role"] == "assistant" else _NOTHING_SAID
                call = _call(item.call_id, item.name, item.arguments)
                turns.append({**said, "tool_calls": [*said.get("tool_calls", ()), call]})
    return turns


_NOTHING_SAID: Turn = {"role": "assistant", "content": ""}


def answered_turn(items: Sequence[Item]) -> Turn:
    """Return an answer's items as the assistant's turn."""
    calls = [_call(item["call_id"], item["name"], item["arguments"]) for item in items if "call_id" in item]
    text = "".join(part["text"] for item in items for part in item.get("content", ()))
    return {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})


def _text(content: str | Sequence[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _call(name: str, function: str, arguments: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}


@dataclass(slots=True)
class _Growing:
    """An item of the answer, and the pieces of its text or of its arguments."""

    head: Item
    pieces: list[str] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        return bool(self.head["type"] == "function_call")

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def item(self, status: str) -> Item:
        """Return what it has come to."""
        body = {"arguments": self.text} if self.is_call else {"content": [_part(self.text)]}
        return {**self.head, "status": status, **body}


class ItemWriter:
    """Writes one completion's text as items, and the events in which they grow.

    Args:
        plan: of the request; ``None`` if it has no tools.
        numbers: of the events.
    """

    def __init__(self, plan: ToolPlan | None, numbers: count[int]) -> None:
        self._plan, self._reader, self._numbers = plan, AnswerReader(plan), numbers
        self._open: _Growing | None = None
        self.items: list[Item] = []  # those that have ended

    def feed(self, text: str) -> list[ServerEvent]:
        """Take more text; return the events that tell what it adds."""
        return [event for piece in self._reader.feed(text) for event in self._told(piece)]

    def end(self, status: str) -> list[ServerEvent]:
        """End the answer, its last item with this status; return the last events. There is one item at least."""
        told = [event for piece in self._reader.feed("", ended=True) for event in self._told(piece)]
        if self._open is None:
            told += self._begin_message()
        return [*told, *self._end(status)]

    def event(self, kind: str, **more: Any) -> ServerEvent:
        """Return the next event."""
        name = f"response.{kind}"
        return ServerEvent({"type": name, "sequence_number": next(self._numbers), **more}, event=name)

    def _told(self, piece: ToolPiece) -> Iterator[ServerEvent]:
        match piece:
            case TextPiece():
                if self._open is None or self._open.is_call:
                    yield from self._begin_message()
                yield self._grow(piece.text, "output_text.delta", content_index=0, logprobs=[])
            case CallBegins():
                assert self._plan is not None
                head = {"type": "function_call", "id": new_id("fc"), "call_id": self._plan.new_call_id()}
                yield from self._begin({**head, "name": piece.name, "arguments": ""})
            case ArgumentsPiece():
                yield self._grow(piece.text, "function_call_arguments.delta")

    def _begin_message(self) -> Iterator[ServerEvent]:
        yield from self._begin({"type": "message", "id": new_id("msg"), "role": "assistant", "content": []})
        yield self._of_open("content_part.added", content_index=0, part=_part(""))

    def _begin(self, head: Item) -> Iterator[ServerEvent]:
        yield from self._end("completed")
        self._open = _Growing(head)
        yield self.event("output_item.added", output_index=len(self.items), item={**head, "status": "in_progress"})

    def _grow(self, text: str, kind: str, **more: Any) -> ServerEvent:
        assert self._open is not None
        self._open.pieces.append(text)
        return self._of_open(kind, delta=text, **more)

    def _end(self, status: str) -> Iterator[ServerEvent]:
        if self._open is None:
            return
        item, text = self._open.item(status), self._open.text
        if self._open.is_call:
            yield self._of_open("function_call_arguments.done", name=item["name"], arguments=text)
        else:
            yield self._of_open("output_text.done", content_index=0, text=text, logprobs=[])
            yield self._of_open("content_part.done", content_index=0, part=_part(text))
        yield self.event("output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)
        self._open = None

    def _of_open(self, kind: str, **more: Any) -> ServerEvent:
        assert self._open is not None
        return self.event(kind, item_id=self._open.head["id"], output_index=len(self.items), **more)


def _part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
