"""Writing grammars in the dialect of Lark that llguidance reads: whole constraints, and pieces of grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from steelyard.core.constraint import Constraint, ConstraintKind

_OPTIONS = '%llguidance {"no_forcing": true}\n'
_ANY_OBJECT = {"type": "object"}
# A small model may never find its way out of white space: one line break and an indentation are enough for anybody.
INDENTED, ONE_LINE = r"\n?( {0,32}|\t{0,8})", " ?"
_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_VALUES = frozenset({"const", "enum", "default", "examples"})
# Between slashes, a slash or a line's end would end it; whatever follows a backslash belongs to that.
_PIECE = re.compile(r"\\?[/\n\r]|\\.")
_INLINE = {"/": r"\/", "\n": r"\n", "\r": r"\r"}


def lark_of(constraint: Constraint) -> str:
    """Return a constraint as a grammar."""
    if constraint.kind in (ConstraintKind.GRAMMAR, ConstraintKind.GBNF):
        return f"{constraint.texts[0]}\n{_OPTIONS}"
    return f"{rule('start', constraint)}\n{_OPTIONS}"


def rule(name: str, constraint: Constraint) -> str:
    """Return the rule ``name`` for texts that fulfil a constraint that is no grammar itself."""
    match constraint.kind:
        case ConstraintKind.JSON_OBJECT:
            return f"{name}: {json_rule(_ANY_OBJECT)}"
        case ConstraintKind.JSON_SCHEMA:
            return f"{name}: {json_rule(json.loads(constraint.texts[0]))}"
        case ConstraintKind.REGEX:
            return f"{name}: {regex(constraint.texts[0])}"
        case ConstraintKind.CHOICE:
            return f"{name}: CHOICE\nCHOICE: {' | '.join(map(literal, constraint.texts))}"
        case _:
            raise constraint.error("a grammar cannot be a part of another")


def json_rule(schema: Mapping[str, object], white_space: str = INDENTED) -> str:
    """Return what stands for JSON that fulfils ``schema``; its references are to its own parts.

    Formats that the library does not know say nothing, as JSON Schema has it.

    Args:
        schema: a JSON schema.
        white_space: regular expression of what may stand between its signs.
    """
    style = {"x-guidance": {"whitespace_pattern": white_space}}
    return f"%json {json.dumps({**_known(schema), **style})}"


def _known(part: Any) -> Any:
    """Return a part of a schema without unknown formats; values that stand for themselves are left alone."""
    if isinstance(part, list):
        return [_known(one) for one in part]
    if not isinstance(part, Mapping):
        return part
    unknown = isinstance(part.get("format"), str) and part["format"] not in _FORMATS
    kept = {name: value for name, value in part.items() if not (unknown and name == "format")}
    return {name: value if name in _VALUES else _known(value) for name, value in kept.items()}


def literal(text: str) -> str:
    """Return what stands for this very text; no control token is part of it."""
    return json.dumps(text)


def token(token_id: int) -> str:
    """Return what stands for this very token, even a control token."""
    return f"<[{token_id}]>"


def regex(pattern: str) -> str:
    """Return what stands for texts that match a regular expression in Rust's syntax."""
    return f"/{_PIECE.sub(lambda found: _INLINE.get(found[0][-1], found[0]), pattern)}/"
