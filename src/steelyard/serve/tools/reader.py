"""Reading tool calls out of a model's text as it grows: :class:`ToolReader`.

Lenient about what stands inside of arguments (brackets and strings must close, nothing else is looked at), strict about
who is called: an object that names no tool on offer is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from steelyard.serve.tools.formats import ToolFormat

# The usual outline, up to where the arguments begin. Any other order of members is read once the object has closed.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_MAX_HEAD_CHARS = 512
_OUTSIDE, _INSIDE = re.compile(r'[{}\[\]"]'), re.compile(r'["\\]')
_WHITE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class TextPiece:
    """What the model says."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A call of the tool ``name``; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the arguments, as JSON text, of the call that began last."""

    text: str


ToolPiece = TextPiece | CallBegins | ArgumentsPiece
_Step = Sequence[ToolPiece] | None


class ObjectScanner:
    """Finds where a JSON object ends, whatever pieces it comes in.

    Args:
        depth: brackets that are open at the beginning.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth, self._in_string, self._escaped = depth, False, False

    def end(self, text: str, start: int = 0) -> int | None:
        """Take ``text`` from ``start`` on; return the index behind the object's last bracket, once it is there."""
        at = start + 1 if self._escaped and len(text) > start else start
        self._escaped &= at == start
        while (found := (_INSIDE if self._in_string else _OUTSIDE).search(text, at)) is not None:
            at = found.end()
            match found[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = at == len(text)
                    at += 1
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        return at
        return None


class ToolReader:
    """Tells text from calls.

    Text that is no call comes out as it went in, but for white space around calls. What comes after the last call
    allowed is dropped.

    Args:
        style: how the model writes calls.
        names: of the tools on offer.
        max_calls: at least 1; ``None`` for no limit.

    Attributes:
        num_calls: calls found so far.
    """

    def __init__(self, style: ToolFormat, names: Iterable[str], max_calls: int | None = None) -> None:
        self._style, self._names, self._max_calls = style, frozenset(names), max_calls
        self.num_calls = 0
        self._buffer = ""  # not decided yet
        self._passed = ""  # between text and an object: text again, should the object be no call
        self._scanner, self._num_scanned = ObjectScanner(), 0
        self._state: Callable[[], _Step] = self._at_start if style.bare_start else self._in_text

    def feed(self, text: str) -> list[ToolPiece]:
        """Take more text and return what is certain now."""
        self._buffer += text
        pieces: list[ToolPiece] = []
        step: _Step = ()
        while step is not None:
            pieces += step
            step = self._state()
        return pieces

    def close(self) -> list[ToolPiece]:
        """Return what was held back, after the last text. A call that was cut short is text only if it is the first."""
        rest, self._buffer = self._passed + self._buffer, ""
        goes_on = self._state == self._in_text and not self._style.marker.startswith(rest.strip())
        return [TextPiece(rest)] if rest and (goes_on or not self.num_calls) else []

    # Each state takes what it can from the buffer, names the next, and returns what it found; None if it needs more.

    def _at_start(self) -> _Step:
        begun = self._buffer.lstrip(_WHITE)
        if not begun:
            return None
        self._state = self._at_object if begun[0] == "{" else self._in_text
        return ()

    def _in_text(self) -> _Step:
        before, marker, after = self._buffer.partition(self._style.marker)
        said = (before if marker else before[: len(before) - _overlap(before, self._style.marker)]).rstrip(_WHITE)
        if marker:
            self._passed, self._buffer = self._buffer[len(said) : -len(after) or None], after
            self._state = self._at_object
        else:
            self._buffer = self._buffer[len(said) :]
        return [TextPiece(said)] if said else () if marker else None

    def _at_object(self) -> _Step:
        opening = self._style.opening.strip() if self._passed else ""
        found = re.match(rf"[{_WHITE}]*(?:{re.escape(opening)}[{_WHITE}]*)?", self._buffer)
        assert found is not None
        start = found.end()
        if start == len(self._buffer):
            return None
        if self._buffer[start] != "{":
            return self._text_after_all(0)
        self._passed += self._buffer[:start]
        self._buffer = self._buffer[start:]
        self._scanner, self._num_scanned = ObjectScanner(), 0
        self._state = self._in_object
        return ()

    def _in_object(self) -> _Step:
        head = _HEAD.match(self._buffer, 0, _MAX_HEAD_CHARS)
        name = _string(head[1]) if head is not None else None
        if head is not None and name in self._names:
            self._buffer, self._scanner, self._state = self._buffer[head.end() :], ObjectScanner(), self._in_arguments
            return self._begin(name)
        end = self._scanner.end(self._buffer, self._num_scanned)
        self._num_scanned = len(self._buffer)
        if end is None:
            return None
        call = _call(self._buffer[:end])
        if call is None or call[0] not in self._names:
            return self._text_after_all(end)
        self._buffer, self._state = self._buffer[end:], self._after_object
        return [*self._begin(call[0]), ArgumentsPiece(call[1])]

    def _in_arguments(self) -> _Step:
        end = self._scanner.end(self._buffer)
        taken = self._buffer[:end]
        self._buffer = self._buffer[len(taken) :]
        if end is not None:
            self._scanner, self._state = ObjectScanner(depth=1), self._in_tail
        return [ArgumentsPiece(taken)] if taken else None

    def _in_tail(self) -> _Step:
        end = self._scanner.end(self._buffer)
        self._buffer = "" if end is None else self._buffer[end:]
        self._state = self._in_tail if end is None else self._after_object
        return None if end is None else ()

    def _after_object(self) -> _Step:
        if self.num_calls == self._max_calls:
            self._buffer = ""
            return None
        separator, closing = (self._style.separator or "").strip(), self._style.closing.strip()
        self._buffer = self._buffer.lstrip(_WHITE)
        if not self._buffer or (closing.startswith(self._buffer) and closing != self._buffer):
            return None
        if separator and self._buffer.startswith(separator):
            self._passed, self._buffer = separator, self._buffer[len(separator) :]
            self._state = self._at_object
        else:
            self._passed, self._buffer = "", self._buffer.removeprefix(closing)
            self._state = self._in_text
        return ()

    def _begin(self, name: str) -> list[ToolPiece]:
        self.num_calls += 1
        self._passed = ""
        return [CallBegins(name)]

    def _text_after_all(self, num_chars: int) -> _Step:
        """Give out what was passed over, and this much of the buffer, as text."""
        text = self._passed + self._buffer[:num_chars]
        self._passed, self._buffer, self._state = "", self._buffer[num_chars:], self._in_text
        return [TextPiece(text)] if text else ()


def _overlap(text: str, marker: str) -> int:
    """Return how many characters at the end of ``text`` may be the beginning of ``marker``."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)


def _string(text: str) -> str | None:
    """Return what a JSON string says."""
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _call(text: str) -> tuple[str, str] | None:
    """Return the name and the arguments, as JSON text, that an object is the call of."""
    called = _object(text)
    if called is None or not isinstance(called.get("name"), str):
        return None
    given = called.get("arguments", called.get("parameters", {}))
    arguments = _object(given) if isinstance(given, str) else given  # some models write them as JSON in a string
    # Written in ASCII: half a surrogate pair is no text that could be sent.
    return (str(called["name"]), json.dumps(arguments)) if isinstance(arguments, dict) else None


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
