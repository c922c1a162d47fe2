"""Constraints are plain, hashable data within limits; what is wrong is named."""

from __future__ import annotations

import pytest

from steelyard.core.constraint import (
    MAX_CHOICE_CHARS,
    MAX_CHOICES,
    MAX_GRAMMAR_CHARS,
    MAX_REGEX_CHARS,
    MAX_SCHEMA_CHARS,
    MAX_SCHEMA_DEPTH,
    Constraint,
    ConstraintKind,
)
from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def test_equal_constraints_are_one_and_the_order_of_properties_counts() -> None:
    schema = {"type": "object", "properties": {"é": {}, "a": {}}}
    assert Constraint.json_schema(schema) == Constraint.json_schema('{"type":"object","properties":{"é":{},"a":{}}}')
    swapped = {"type": "object", "properties": {"a": {}, "é": {}}}
    assert len({Constraint.json_schema(schema), Constraint.json_schema(swapped)}) == 2
    assert Constraint.choice(["a", "b"]).texts == ("a", "b")
    assert hash(Constraint.json_object()) == hash(Constraint.json_object())


def test_limits_are_inclusive() -> None:
    Constraint.regex("a" * MAX_REGEX_CHARS)
    Constraint.grammar("a" * MAX_GRAMMAR_CHARS)
    Constraint.choice([str(i) for i in range(MAX_CHOICES)])
    Constraint.choice(["a" * MAX_CHOICE_CHARS])
    Constraint.json_schema('{"a":"' + "b" * (MAX_SCHEMA_CHARS - 8) + '"}')
    Constraint.json_schema(nested(MAX_SCHEMA_DEPTH))


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (ConstraintKind.JSON_OBJECT, ("{}",)),
        (ConstraintKind.JSON_SCHEMA, ()),
        (ConstraintKind.JSON_SCHEMA, ("{",)),
        (ConstraintKind.JSON_SCHEMA, ("[" * 5000,)),
        (ConstraintKind.JSON_SCHEMA, ("true",)),
        (ConstraintKind.JSON_SCHEMA, ("[]",)),
        (ConstraintKind.JSON_SCHEMA, ('{"a":"' + "b" * (MAX_SCHEMA_CHARS - 7) + '"}',)),
        (ConstraintKind.REGEX, ("",)),
        (ConstraintKind.REGEX, ("a", "b")),
        (ConstraintKind.REGEX, (3,)),
        (ConstraintKind.REGEX, ("\ud800",)),
        (ConstraintKind.REGEX, ("a" * (MAX_REGEX_CHARS + 1),)),
        (ConstraintKind.GRAMMAR, ("a" * (MAX_GRAMMAR_CHARS + 1),)),
        (ConstraintKind.CHOICE, ()),
        (ConstraintKind.CHOICE, ("a", "")),
        (ConstraintKind.CHOICE, ("a", "b" * (MAX_CHOICE_CHARS + 1))),
        (ConstraintKind.CHOICE, tuple(map(str, range(MAX_CHOICES + 1)))),
    ],
)
def test_what_is_wrong_is_named(kind: ConstraintKind, texts: tuple[str, ...]) -> None:
    with pytest.raises(ParamsError) as caught:
        Constraint(kind, texts)
    assert caught.value.field == kind.value
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("schema", [nested(MAX_SCHEMA_DEPTH + 1), {"const": float("nan")}, {"const": object()}])
def test_schemas_that_are_too_deep_or_no_json_are_refused(schema: dict[str, object]) -> None:
    with pytest.raises(ParamsError) as caught:
        Constraint.json_schema(schema)
    assert caught.value.field == "json_schema"


def test_parameters_take_nothing_but_a_constraint() -> None:
    with pytest.raises(ParamsError) as caught:
        SamplingParams(constraint={"type": "json_object"})  # type: ignore[arg-type]
    assert caught.value.field == "constraint"
