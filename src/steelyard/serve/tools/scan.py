"""Reading the JSON object of one tool call a character at a time: :class:`CallScanner`.

Lenient inside of values (their brackets and strings must close, nothing else is looked at), strict about the outline:
an object with a string ``name`` and an object of arguments, in any order, further members aside.
"""

from __future__ import annotations

import json
from enum import Enum, auto

_WHITE = " \t\r\n"
_OPENERS, _CLOSERS = "{[", "}]"
_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})


class ValueScanner:
    """Finds where a JSON value ends.

    Attributes:
        text: the value so far.
        ended: it is complete; for numbers and words only the character after them tells.
    """

    __slots__ = ("_depth", "_escaped", "_in_string", "_pieces", "ended")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._depth, self._in_string, self._escaped = 0, False, False
        self.ended = False

    @property
    def text(self) -> str:
        """See the class."""
        return "".join(self._pieces)

    def feed(self, char: str) -> bool:
        """Take the next character; return whether it belongs to the value."""
        if self._in_string:
            self._feed_string(char)
        elif char == '"':
            self._in_string = True
        elif char in _OPENERS:
            self._depth += 1
        elif self._depth == 0 and (char in _CLOSERS or char in _WHITE or char == ","):
            self.ended = True
            return False
        elif char in _CLOSERS:
            self._depth -= 1
            self.ended = self._depth == 0
        self._pieces.append(char)
        return True

    def _feed_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            self.ended = self._depth == 0


class _Place(Enum):
    """What the outline expects next."""

    OPEN = auto()
    KEY_OR_CLOSE = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA_OR_CLOSE = auto()
    DONE = auto()
    FAILED = auto()


class CallScanner:
    """Reads one call.

    Attributes:
        name: once it is read.
        num_arguments: characters of arguments read so far; :meth:`take_arguments` gives them out.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._place = _Place.OPEN
        self._key = ""
        self._value = ValueScanner()
        self._arguments: list[str] = []
        self._began_arguments = False

    @property
    def done(self) -> bool:
        """Whether the object has closed."""
        return self._place is _Place.DONE

    @property
    def failed(self) -> bool:
        """Whether the last character cannot continue a call; it was not taken."""
        return self._place is _Place.FAILED

    @property
    def committed(self) -> bool:
        """Whether it is a call whatever follows: its name is known and its arguments have begun, or it is done."""
        return self.name is not None and (self._began_arguments or self.done)

    def take_arguments(self) -> str:
        """Return the arguments read since the last call of this; an empty object if a call that is done has none."""
        if self.done and not self._began_arguments:
            self._arguments, self._began_arguments = ["{}"], True
        taken = "".join(self._arguments)
        self._arguments.clear()
        return taken

    def feed(self, char: str) -> None:
        """Take the next character; see :attr:`done` and :attr:`failed` afterwards."""
        if self._place in (_Place.VALUE, _Place.KEY, _Place.KEY_OR_CLOSE):
            self._feed_member(char)
        elif char not in _WHITE:
            self._feed_outline(char)

    def _feed_outline(self, char: str) -> None:
        following = {
            (_Place.OPEN, "{"): _Place.KEY_OR_CLOSE,
            (_Place.COLON, ":"): _Place.VALUE,
            (_Place.COMMA_OR_CLOSE, ","): _Place.KEY,
            (_Place.COMMA_OR_CLOSE, "}"): _Place.DONE,
        }
        self._place = following.get((self._place, char), _Place.FAILED)
        if self._place is _Place.DONE and self.name is None:
            self._place = _Place.FAILED

    def _feed_member(self, char: str) -> None:
        if not self._value.text and not self._begins(char):
            return
        taken = self._value.feed(char)
        if taken and self._place is _Place.VALUE and self._key in _ARGUMENT_KEYS:
            self._arguments.append(char)
        if self._value.ended:
            self._end_member()
            if not taken:
                self.feed(char)

    def _begins(self, char: str) -> bool:
        """Whether ``char`` begins the key or value expected; white space before it is passed over."""
        if char in _WHITE:
            return False
        if self._place is not _Place.VALUE:
            self._place = _Place.KEY if char == '"' else _Place.FAILED
            return char == '"'
        is_argument = self._key in _ARGUMENT_KEYS
        if (self._key == "name" and char != '"') or (is_argument and (char != "{" or self._began_arguments)):
            self._place = _Place.FAILED
        elif char in ",:]}":
            self._place = _Place.FAILED
        self._began_arguments |= is_argument
        return self._place is _Place.VALUE

    def _end_member(self) -> None:
        text, self._value = self._value.text, ValueScanner()
        if self._place is _Place.KEY:
            self._key, self._place = _string(text), _Place.COLON
            return
        self._place = _Place.COMMA_OR_CLOSE
        if self._key == "name":
            self._place = _Place.FAILED if self.name is not None else self._place
            self.name = _string(text) if self.name is None else self.name


def _string(text: str) -> str:
    """Return what a JSON string says; a malformed one says itself, which is nobody's name."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text
