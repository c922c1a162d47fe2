"""What a completion's text must look like: :class:`Constraint`, plain data with its limits checked when it is made.

Whether a constraint makes sense (a regex that parses, a schema that can be fulfilled) is found out when it is compiled
for a model's vocabulary (:mod:`steelyard.engine.constraints`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from steelyard.core.errors import ParamsError

MAX_SCHEMA_CHARS = 1 << 16
MAX_SCHEMA_DEPTH = 32
MAX_REGEX_CHARS = 1 << 12
MAX_GRAMMAR_CHARS = 1 << 16
MAX_CHOICES = 1024
MAX_CHOICE_CHARS = 1024


class ConstraintKind(Enum):
    """What the text of a constraint is; the values are also the names of the fields in errors."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class Constraint:
    """The language that a completion's text must belong to. Hashable: equal constraints are compiled once.

    Attributes:
        kind: what ``texts`` are.
        texts: one JSON schema, written out; one regular expression, which must match the whole text; one Lark grammar
            with a rule ``start``; or all choices. Empty for ``JSON_OBJECT``: any one JSON object.

    Raises:
        ParamsError: if it is over a limit, or no such text; it names the kind as the field.
    """

    kind: ConstraintKind
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check = {
            ConstraintKind.JSON_OBJECT: _check_nothing,
            ConstraintKind.JSON_SCHEMA: _check_schema,
            ConstraintKind.REGEX: _check_regex,
            ConstraintKind.CHOICE: _check_choices,
            ConstraintKind.GRAMMAR: _check_grammar,
        }
        check[self.kind](self.texts)

    @classmethod
    def json_object(cls) -> Constraint:
        """Return the constraint to any JSON object."""
        return cls(ConstraintKind.JSON_OBJECT)

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | str) -> Constraint:
        """Return the constraint to JSON that fulfils a schema, given as an object or as its text."""
        if isinstance(schema, str):
            return cls(ConstraintKind.JSON_SCHEMA, (schema,))
        try:
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise _wrong(ConstraintKind.JSON_SCHEMA, f"it cannot be written as JSON: {error}") from error
        return cls(ConstraintKind.JSON_SCHEMA, (text,))

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Return the constraint to texts that match a regular expression as a whole (Rust's syntax)."""
        return cls(ConstraintKind.REGEX, (pattern,))

    @classmethod
    def choice(cls, choices: Iterable[str]) -> Constraint:
        """Return the constraint to one of several texts."""
        return cls(ConstraintKind.CHOICE, tuple(choices))

    @classmethod
    def grammar(cls, lark: str) -> Constraint:
        """Return the constraint to the language of a context-free grammar in Lark's syntax."""
        return cls(ConstraintKind.GRAMMAR, (lark,))


def check_schema_shape(schema: object, field: str) -> None:
    """Check that ``schema`` is an object and nested at most :data:`MAX_SCHEMA_DEPTH` deep.

    Raises:
        ParamsError: naming ``field``.
    """
    if not isinstance(schema, dict):
        raise _error(field, f"it is {type(schema).__name__}, not an object")
    level: list[object] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise _error(field, f"it is nested more than {MAX_SCHEMA_DEPTH} deep")


def _children(value: object) -> Iterable[object]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (child for child in found if isinstance(child, (dict, list)))


def _check_nothing(texts: tuple[str, ...]) -> None:
    if texts:
        raise _wrong(ConstraintKind.JSON_OBJECT, "it takes no text")


def _check_schema(texts: tuple[str, ...]) -> None:
    text = _only(texts, ConstraintKind.JSON_SCHEMA, MAX_SCHEMA_CHARS)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(ConstraintKind.JSON_SCHEMA, f"it is not valid JSON: {error}") from error
    check_schema_shape(schema, ConstraintKind.JSON_SCHEMA.value)


def _check_regex(texts: tuple[str, ...]) -> None:
    _only(texts, ConstraintKind.REGEX, MAX_REGEX_CHARS)


def _check_grammar(texts: tuple[str, ...]) -> None:
    _only(texts, ConstraintKind.GRAMMAR, MAX_GRAMMAR_CHARS)


def _check_choices(texts: tuple[str, ...]) -> None:
    if not 1 <= len(texts) <= MAX_CHOICES:
        raise _wrong(ConstraintKind.CHOICE, f"{len(texts)} choices are not from 1 to {MAX_CHOICES}")
    for text in texts:
        _only((text,), ConstraintKind.CHOICE, MAX_CHOICE_CHARS)


def _only(texts: tuple[str, ...], kind: ConstraintKind, limit: int) -> str:
    """Return the one text there must be, not empty, valid Unicode and within its limit."""
    if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0]:
        raise _wrong(kind, "it is not one text with at least one character")
    if len(texts[0]) > limit:
        raise _wrong(kind, f"{len(texts[0])} characters are over the limit of {limit}")
    if any("\ud800" <= char <= "\udfff" for char in texts[0]):
        raise _wrong(kind, "it holds half of a surrogate pair")
    return texts[0]


def _wrong(kind: ConstraintKind, problem: str) -> ParamsError:
    return _error(kind.value, problem)


def _error(field: str, problem: str) -> ParamsError:
    return ParamsError(f"{problem:.500}", field=field, remedy="Correct or simplify it")
