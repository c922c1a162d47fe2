"""The blocks of Anthropic's messages: texts, calls and results as turns of ours, and an answer as blocks that grow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, JsonValue

from steelyard.serve.protocol.wire import WireModel
from steelyard.serve.sse import ServerEvent
from steelyard.serve.tools.answer import AnswerReader
from steelyard.serve.tools.plan import ToolPlan
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, TextPiece, ToolPiece

Turn = Mapping[str, Any]
_IGNORED = "Accepted and ignored."


class TextBlock(WireModel):
    """A piece of text; what is said of caching has no effect, for every prefix is cached."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, JsonValue] | None = Field(default=None, description=_IGNORED)


class ToolUseBlock(WireModel):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]
    cache_control: dict[str, JsonValue] | None = Field(default=None, description=_IGNORED)


class ToolResultBlock(WireModel):
    """What a call came to."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = Field(default=None, description="The model is told by the word Error before the content.")
    cache_control: dict[str, JsonValue] | None = Field(default=None, description=_IGNORED)


InputBlock = TextBlock | ToolUseBlock | ToolResultBlock


def text_of(content: str | Sequence[InputBlock] | None) -> str:
    """Return the text of a content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block.text for block in content if isinstance(block, TextBlock))


def turns_of(role: str, content: str | Sequence[InputBlock]) -> Iterator[Turn]:
    """Yield a message as turns in OpenAI's form: each result is one of its own, before the texts beside it."""
    blocks = () if isinstance(content, str) else content
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            said = text_of(block.content)
            told = f"Error: {said}" if block.is_error else said
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": told}
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    text = text_of(content)
    if calls:
        yield {"role": role, "content": text, "tool_calls": calls}
    elif text or not any(isinstance(block, ToolResultBlock) for block in blocks):
        yield {"role": role, "content": text}


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


@dataclass(slots=True)
class _Growing:
    """A block of the answer, and the pieces of its text or of its call's input."""

    head: dict[str, Any]
    pieces: list[str] = field(default_factory=list)

    def block(self) -> dict[str, Any]:
        """Return what it is so far."""
        text = "".join(self.pieces)
        return self.head | ({"text": text} if self.head["type"] == "text" else {"input": _input(text)})


class BlockWriter:
    """Writes one completion's text as blocks, and the events in which they grow.

    Args:
        plan: of the request; ``None`` if it has no tools.
    """

    def __init__(self, plan: ToolPlan | None) -> None:
        self._plan, self._reader = plan, AnswerReader(plan)
        self._blocks: list[_Growing] = []

    @property
    def has_called(self) -> bool:
        """Whether there is a call so far."""
        return self._reader.has_called

    def content(self) -> list[dict[str, Any]]:
        """Return the blocks so far; of a call that is no JSON object, the input is ``{"INVALID_JSON": text}``."""
        return [one.block() for one in self._blocks]

    def feed(self, text: str, *, ended: bool) -> list[ServerEvent]:
        """Take more text, the last with ``ended``; return the events that tell what it adds."""
        told = [one for piece in self._reader.feed(text, ended=ended) for one in self._told(piece)]
        return told + ([self._stop()] if ended and self._blocks else [])

    def _told(self, piece: ToolPiece) -> Iterator[ServerEvent]:
        last = self._blocks[-1].head["type"] if self._blocks else None
        match piece:
            case TextPiece():
                if last != "text":
                    yield from self._begin({"type": "text", "text": ""})
                yield self._grow(piece.text, {"type": "text_delta", "text": piece.text})
            case CallBegins():
                assert self._plan is not None
                yield from self._begin(
                    {"type": "tool_use", "id": self._plan.new_call_id(), "name": piece.name, "input": {}}
                )
            case ArgumentsPiece():
                yield self._grow(piece.text, {"type": "input_json_delta", "partial_json": piece.text})

    def _begin(self, head: dict[str, Any]) -> Iterator[ServerEvent]:
        if self._blocks:
            yield self._stop()
        self._blocks.append(_Growing(head))
        yield message_event("content_block_start", index=len(self._blocks) - 1, content_block=head)

    def _grow(self, text: str, delta: dict[str, str]) -> ServerEvent:
        self._blocks[-1].pieces.append(text)
        return message_event("content_block_delta", index=len(self._blocks) - 1, delta=delta)

    def _stop(self) -> ServerEvent:
        return message_event("content_block_stop", index=len(self._blocks) - 1)


def message_event(kind: str, **more: Any) -> ServerEvent:
    """Return an event of a streamed message."""
    return ServerEvent({"type": kind, **more}, event=kind)


def _input(text: str) -> dict[str, Any]:
    """Return a call's input; what could not be sent on as JSON is given in the manner that Anthropic advises."""
    try:
        value = json.loads(text or "{}")
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}
