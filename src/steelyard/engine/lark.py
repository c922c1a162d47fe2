"""Writing grammars in the dialect of Lark that llguidance reads: whole constraints, and pieces of grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from steelyard.core.constraint import Constraint, ConstraintKind

_OPTIONS = '%llguidance {"no_forcing": true}\n'
_ANY_OBJECT = {"type": "object"}
# A small model may never find its way out of white space: one line break and an indentation are enough for anybody.
_JSON_STYLE = {"whitespace_pattern": r"\n?[ \t]{0,64}"}
# Between slashes, a slash or a line's end would end it; whatever follows a backslash belongs to that.
_PIECE = re.compile(r"\\?[/\n\r]|\\.")
_INLINE = {"/": r"\/", "\n": r"\n", "\r": r"\r"}


def lark_of(constraint: Constraint) -> str:
    """Return a constraint as a grammar."""
    match constraint.kind:
        case ConstraintKind.JSON_OBJECT:
            return f"start: {json_rule(_ANY_OBJECT)}\n{_OPTIONS}"
        case ConstraintKind.JSON_SCHEMA:
            return f"start: {json_rule(json.loads(constraint.texts[0]))}\n{_OPTIONS}"
        case ConstraintKind.REGEX:
            return f"start: {regex(constraint.texts[0])}\n{_OPTIONS}"
        case ConstraintKind.CHOICE:
            return f"start: CHOICE\nCHOICE: {' | '.join(map(literal, constraint.texts))}\n{_OPTIONS}"
        case ConstraintKind.GRAMMAR | ConstraintKind.GBNF:
            return f"{constraint.texts[0]}\n{_OPTIONS}"


def json_rule(schema: Mapping[str, object]) -> str:
    """Return what stands for JSON that fulfils ``schema``; its references are to its own parts."""
    return f"%json {json.dumps({**schema, 'x-guidance': _JSON_STYLE})}"


def literal(text: str) -> str:
    """Return what stands for this very text; no control token is part of it."""
    return json.dumps(text)


def token(token_id: int) -> str:
    """Return what stands for this very token, even a control token."""
    return f"<[{token_id}]>"


def regex(pattern: str) -> str:
    """Return what stands for texts that match a regular expression in Rust's syntax."""
    return f"/{_PIECE.sub(lambda found: _INLINE.get(found[0][-1], found[0]), pattern)}/"
