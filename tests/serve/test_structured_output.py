"""Constrained output from a live server, through the official client."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from live_server import LiveServer
from pydantic import BaseModel, ConfigDict, Field

from steelyard.core.constraint import MAX_CHOICES, MAX_GRAMMAR_CHARS, MAX_REGEX_CHARS, MAX_SCHEMA_CHARS

ASK: list[Any] = [{"role": "user", "content": "Describe a city as JSON."}]
SUM = 'start: one ("+" one){1,3}\none: "1"'
GBNF = 'root ::= "1" ("+" "1"){1,3}'


class Size(Enum):
    BIG = "big"
    SMALL = "small"


class District(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    size: Size


class City(BaseModel):
    """A schema with references, an enum, a union and a list."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    founded: int = Field(ge=0, le=2026)
    river: str | None = Field(max_length=12)
    districts: list[District] = Field(max_length=2)


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "smol", "messages": ASK, "max_tokens": 200, "temperature": 1.0, "seed": 1} | changes
    )


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_parse_gives_a_pydantic_model(client: openai.OpenAI, temperature: float) -> None:
    answer = client.chat.completions.parse(
        model="smol", messages=ASK, response_format=City, temperature=temperature, seed=2, max_tokens=300
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, City)


def test_a_stream_gives_a_pydantic_model(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="smol", messages=ASK, response_format=City, seed=2, max_tokens=300
    ) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)
    assert "content.delta" in kinds


def test_streams_and_answers_are_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, response_format=schema_format(City.model_json_schema()), n=2)
    texts = ["", ""]
    for chunk in ask(client, response_format=schema_format(City.model_json_schema()), n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_any_object(client: openai.OpenAI) -> None:
    for extra in ({"response_format": {"type": "json_object"}},
                  {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
                  {"extra_body": {"structured_outputs": {"json_object": True}}}):  # fmt: skip
        for choice in ask(client, n=4, **extra).choices:
            assert choice.message.content.startswith("{")
            if choice.finish_reason == "stop":
                assert isinstance(json.loads(choice.message.content), dict)


def test_text_is_free(client: openai.OpenAI) -> None:
    free = ask(client, temperature=0, max_tokens=8).choices[0].message.content
    assert ask(client, temperature=0, max_tokens=8, response_format={"type": "text"}).choices[0].message.content == free


FORMS = [
    ("json", City.model_json_schema(), lambda text: City.model_validate_json(text)),
    ("json", json.dumps(City.model_json_schema()), lambda text: City.model_validate_json(text)),
    ("regex", "[0-9]{3}-[A-Z]{2}", lambda text: re.fullmatch("[0-9]{3}-[A-Z]{2}", text)),
    ("choice", ["Berlin", "Paris", "the Hague"], lambda text: text in ("Berlin", "Paris", "the Hague")),
    ("grammar", SUM, lambda text: re.fullmatch(r"1(\+1){1,3}", text)),
    ("grammar", GBNF, lambda text: re.fullmatch(r"1(\+1){1,3}", text)),
]


@pytest.mark.parametrize(("kind", "value", "fits"), FORMS)
@pytest.mark.parametrize("old", [False, True])
def test_vllms_fields(client: openai.OpenAI, kind: str, value: Any, fits: Any, old: bool) -> None:
    extra = {f"guided_{kind}": value} if old else {"structured_outputs": {kind: value}}
    chat = ask(client, n=2, extra_body=extra, max_tokens=300)
    completion = client.completions.create(
        model="smol", prompt="A city: ", n=2, extra_body=extra, seed=1, max_tokens=300
    )
    for text in [c.message.content for c in chat.choices] + [c.text for c in completion.choices]:
        assert fits(text), text


@pytest.mark.parametrize("where", ["chat", "completions"])
def test_an_answer_cut_short_says_so(client: openai.OpenAI, where: str) -> None:
    extra = {"guided_regex": "a{50,60}"}
    if where == "chat":
        choice: Any = ask(client, extra_body=extra, max_tokens=3).choices[0]
    else:
        choice = client.completions.create(model="smol", prompt="a", extra_body=extra, max_tokens=3).choices[0]
    assert choice.finish_reason == "length"


# The vocabulary has no token for some bytes, so it cannot spell every character.
WORDS = 'ab "\\/\nüßé世🙂'
SCALARS = st.one_of(
    st.sampled_from([{"type": "integer", "minimum": -9, "maximum": 99}, {"type": "boolean"}, {"type": "null"}]),
    st.integers(0, 3).map(lambda n: {"type": "string", "maxLength": 4 + n}),
    st.lists(st.text(WORDS, max_size=4), min_size=1, max_size=3).map(lambda values: {"enum": values}),
    st.sampled_from(["^[a-c]{2,4}$", "^x?y+z$"]).map(lambda p: {"type": "string", "pattern": p, "maxLength": 9}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "name", "größe", 'q"uote', "x y"])
    return st.dictionaries(names, inner, min_size=1, max_size=3).map(
        lambda parts: {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    )


SCHEMAS = objects(
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            objects(inner),
            inner.map(lambda one: {"type": "array", "items": one, "maxItems": 2}),
            st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
        ),
        max_leaves=4,
    )
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS, seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 1.0, 2.0]))
def test_answers_to_random_schemas_are_valid(
    client: openai.OpenAI, schema: dict[str, Any], seed: int, temperature: float
) -> None:
    choice = ask(client, response_format=schema_format(schema), seed=seed, temperature=temperature).choices[0]
    assert choice.finish_reason in ("stop", "length")
    if choice.finish_reason == "stop":
        Draft202012Validator(schema).validate(json.loads(choice.message.content))


def test_neighbours_of_all_kinds_do_not_notice_each_other(client: openai.OpenAI, live: LiveServer) -> None:
    asked = [{"extra_body": {f"guided_{kind}": value}} for kind, value, _ in FORMS] + [{}, {}]
    fits = [one for _, _, one in FORMS] + [lambda text: text] * 2

    def text(number: int) -> str:
        choice = ask(client, seed=number, max_tokens=120, **asked[number]).choices[0]
        assert number > 1 or choice.finish_reason == "stop"
        return str(choice.message.content)

    alone = [text(number) for number in range(len(asked))]
    stream = ask(client, stream=True, extra_body={"guided_regex": "a{400}"})
    next(iter(stream))
    with ThreadPoolExecutor(7) as threads:
        together = list(threads.map(text, range(len(asked))))
        stream.close()
    assert together == alone
    assert all(fit(one) for fit, one in zip(fits, alone, strict=True) if one)
    live.eventually(lambda: live.service.num_active == 0)
    live.on_loop(live.engine.check_invariants)


def deep(levels: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": deep(levels - 1)}} if levels else {}


SCHEMA_FIELD = "response_format.json_schema.schema"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}}, SCHEMA_FIELD),
    ({"response_format": {"type": "json_schema", "json_schema": {"x": 1}}}, "response_format.json_schema.x"),
    ({"response_format": schema_format(deep(40))}, SCHEMA_FIELD),
    ({"response_format": schema_format({"description": "x" * MAX_SCHEMA_CHARS})}, SCHEMA_FIELD),
    ({"response_format": schema_format({"type": "no such type"})}, SCHEMA_FIELD),
    ({"response_format": schema_format({"$ref": "#"})}, SCHEMA_FIELD),
    ({"response_format": schema_format({"$ref": "file:///etc/passwd"})}, SCHEMA_FIELD),
    ({"response_format": schema_format({"not": {}})}, SCHEMA_FIELD),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json"),
    ({"guided_regex": "(a"}, "guided_regex"),
    ({"guided_regex": "(?=a)b"}, "guided_regex"),
    ({"guided_regex": "a\\"}, "guided_regex"),
    ({"guided_regex": "x" * (MAX_REGEX_CHARS + 1)}, "guided_regex"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_choice": ["x"] * (MAX_CHOICES + 1)}, "guided_choice"),
    ({"guided_choice": [1]}, "guided_choice[0]"),
    ({"guided_grammar": "start: start"}, "guided_grammar"),
    ({"guided_grammar": "start ::= ("}, "guided_grammar"),
    ({"guided_grammar": "root ::= " + "(" * 20_000}, "guided_grammar"),
    ({"guided_grammar": "x" * (MAX_GRAMMAR_CHARS + 1)}, "guided_grammar"),
    ({"guided_whitespace_pattern": "x"}, "guided_whitespace_pattern"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_what_is_wrong_is_refused_by_name(http: httpx.Client, path: str, fields: dict[str, Any], param: str) -> None:
    base = {"model": "smol", "messages": ASK} if "chat" in path else {"model": "smol", "prompt": "x"}
    response = http.post(path, json={**base, "max_tokens": 9, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
