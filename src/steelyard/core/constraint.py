"""What a completion's text must look like: :class:`Constraint`, plain data with its limits checked when it is made.

Whether a constraint makes sense (a regex that parses, a schema that can be fulfilled) is found out when it is compiled
for a model's vocabulary (:mod:`steelyard.engine.constraints`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
    GBNF = "gbnf"


@dataclass(frozen=True, slots=True)
class Constraint:
    """The language that a completion's text must belong to. Hashable: equal constraints are compiled once.

    Attributes:
        kind: what ``texts`` are.
        texts: one JSON schema, written out; one regular expression, which must match the whole text; one grammar, in
            Lark with a rule ``start`` or in GBNF with a rule ``root``; or all choices. Empty for ``JSON_OBJECT``: any
            one JSON object.
        asked_by: the request's field that it comes from, for errors; does not count when constraints are compared.

    Raises:
        ParamsError: if it is over a limit, or no such text; it names the field ``asked_by``, or the kind.
    """

    kind: ConstraintKind
    texts: tuple[str, ...] = ()
    asked_by: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        problem_of: dict[ConstraintKind, Callable[[tuple[str, ...]], str | None]] = {
            ConstraintKind.JSON_OBJECT: _object_problem,
            ConstraintKind.JSON_SCHEMA: _schema_problem,
            ConstraintKind.REGEX: _regex_problem,
            ConstraintKind.CHOICE: _choice_problem,
            ConstraintKind.GRAMMAR: _grammar_problem,
            ConstraintKind.GBNF: _grammar_problem,
        }
        problem = problem_of[self.kind](self.texts)
        if problem is not None:
            raise self.error(problem)

    def error(self, problem: str) -> ParamsError:
        """Return the error that says what is wrong with it, naming the field that it comes from."""
        name = self.asked_by if self.asked_by is not None else self.kind.value
        return ParamsError(f"{problem:.500}", field=name, remedy="Correct or simplify it")

    @classmethod
    def json_object(cls, asked_by: str | None = None) -> Constraint:
        """Return the constraint to any JSON object."""
        return cls(ConstraintKind.JSON_OBJECT, (), asked_by)

    @classmethod
    def json_schema(cls, schema: Mapping[str, object] | str, asked_by: str | None = None) -> Constraint:
        """Return the constraint to JSON that fulfils a schema, given as an object or as its text."""
        return cls(ConstraintKind.JSON_SCHEMA, (schema if isinstance(schema, str) else _written(schema),), asked_by)

    @classmethod
    def regex(cls, pattern: str, asked_by: str | None = None) -> Constraint:
        """Return the constraint to texts that match a regular expression as a whole (Rust's syntax)."""
        return cls(ConstraintKind.REGEX, (pattern,), asked_by)

    @classmethod
    def choice(cls, choices: Iterable[str], asked_by: str | None = None) -> Constraint:
        """Return the constraint to one of several texts."""
        return cls(ConstraintKind.CHOICE, tuple(choices), asked_by)

    @classmethod
    def grammar(cls, lark: str, asked_by: str | None = None) -> Constraint:
        """Return the constraint to the language of a context-free grammar in llguidance's dialect of Lark."""
        return cls(ConstraintKind.GRAMMAR, (lark,), asked_by)

    @classmethod
    def gbnf(cls, rules: str, asked_by: str | None = None) -> Constraint:
        """Return the constraint to the language of a context-free grammar as llama.cpp writes them."""
        return cls(ConstraintKind.GBNF, (rules,), asked_by)


def schema_problem(schema: object) -> str | None:
    """Return what is wrong with a JSON schema's outline: no object, or nested more than :data:`MAX_SCHEMA_DEPTH`."""
    if not isinstance(schema, dict):
        return f"it is {type(schema).__name__}, not an object"
    level: list[object] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return None
    return f"it is nested more than {MAX_SCHEMA_DEPTH} deep"


def _children(value: object) -> Iterable[object]:
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (child for child in found if isinstance(child, (dict, list)))


def _written(schema: Mapping[str, object]) -> str:
    """Return a schema's text; empty, and so refused, if it is no JSON."""
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return ""


def _object_problem(texts: tuple[str, ...]) -> str | None:
    return "it takes no text" if texts else None


def _schema_problem(texts: tuple[str, ...]) -> str | None:
    problem = _text_problem(texts, MAX_SCHEMA_CHARS)
    if problem is not None:
        return problem
    try:
        return schema_problem(json.loads(texts[0]))
    except (ValueError, RecursionError) as error:
        return f"it is not valid JSON: {error}"


def _regex_problem(texts: tuple[str, ...]) -> str | None:
    return _text_problem(texts, MAX_REGEX_CHARS)


def _grammar_problem(texts: tuple[str, ...]) -> str | None:
    return _text_problem(texts, MAX_GRAMMAR_CHARS)


def _choice_problem(texts: tuple[str, ...]) -> str | None:
    if not 1 <= len(texts) <= MAX_CHOICES:
        return f"{len(texts)} choices are not from 1 to {MAX_CHOICES}"
    problems = (_text_problem((text,), MAX_CHOICE_CHARS) for text in texts)
    return next((problem for problem in problems if problem is not None), None)


def _text_problem(texts: tuple[str, ...], limit: int) -> str | None:
    """Return what keeps ``texts`` from being one text, not empty, valid Unicode and within its limit."""
    if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0]:
        return "it is not one text with at least one character"
    if len(texts[0]) > limit:
        return f"{len(texts[0])} characters are over the limit of {limit}"
    if any("\ud800" <= char <= "\udfff" for char in texts[0]):
        return "it holds half of a surrogate pair"
    return None
