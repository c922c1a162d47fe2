"""Fields of a request become one constraint, or an error that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from steelyard.core.constraint import Constraint, ConstraintKind
from steelyard.core.errors import ParamsError
from steelyard.serve.errors import ApiError
from steelyard.serve.protocol.structured import StructuredFields

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA)


def constraint(**fields: Any) -> Constraint | None:
    return StructuredFields.model_validate_json(json.dumps(fields)).constraint()


FORMS: list[tuple[dict[str, Any], Constraint, str]] = [
    ({"response_format": {"type": "json_object"}}, Constraint.json_object(), "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, Constraint.json_object(),
     "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": False}}},
     Constraint.json_schema(SCHEMA), "response_format.json_schema.schema"),
    ({"structured_outputs": {"json": SCHEMA}}, Constraint.json_schema(SCHEMA), "structured_outputs.json"),
    ({"structured_outputs": {"json": TEXT}}, Constraint.json_schema(TEXT), "structured_outputs.json"),
    ({"structured_outputs": {"regex": "a"}}, Constraint.regex("a"), "structured_outputs.regex"),
    ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint.choice(["a", "b"]), "structured_outputs.choice"),
    ({"structured_outputs": {"json_object": True}}, Constraint.json_object(), "structured_outputs.json_object"),
    ({"guided_json": SCHEMA}, Constraint.json_schema(SCHEMA), "guided_json"),
    ({"guided_regex": "a"}, Constraint.regex("a"), "guided_regex"),
    ({"guided_choice": ["a"]}, Constraint.choice(["a"]), "guided_choice"),
    ({"guided_grammar": 'start: "a ::= b"'}, Constraint.grammar('start: "a ::= b"'), "guided_grammar"),
    ({"guided_grammar": '# x\n root-x ::= "a"'}, Constraint.gbnf('# x\n root-x ::= "a"'), "guided_grammar"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected", "asked_by"), FORMS)
def test_one_field_is_one_constraint(fields: dict[str, Any], expected: Constraint, asked_by: str) -> None:
    made = constraint(**fields)
    assert made == expected
    assert made is not None
    assert made.asked_by == asked_by


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": None}, {"response_format": {"type": "text"}}, {"structured_outputs": {}},
     {"structured_outputs": {"json_object": False}}, {"guided_json": None, "guided_choice": None}],
)  # fmt: skip
def test_text_is_free_without(fields: dict[str, Any]) -> None:
    assert constraint(**fields) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA, "json_object": True}}, "structured_outputs.json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "json_schema": {"name": "a"}}}, "response_format.json_schema"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        constraint(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("fields", [{"guided_regex": ""}, {"guided_choice": []}, {"guided_json": "["}])
def test_limits_are_the_constraints_own(fields: dict[str, Any]) -> None:
    with pytest.raises(ParamsError) as caught:
        constraint(**fields)
    assert [caught.value.field] == list(fields)


@pytest.mark.parametrize(
    "fields", [{"structured_outputs": {"structural_tag": "x"}}, {"response_format": {"type": "structural_tag"}}]
)
def test_what_is_not_supported_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        constraint(**fields)


def test_gbnf_and_lark_are_kinds_of_their_own() -> None:
    assert Constraint.gbnf("a").kind is ConstraintKind.GBNF
    assert Constraint.grammar("a") != Constraint.gbnf("a")
