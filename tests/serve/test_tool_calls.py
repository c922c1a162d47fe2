"""Tools on a live server, through the official client; the default model's template knows nothing of tools."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SUM = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": SUM, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {"get_weather": WEATHER, "add": SUM, "now": {"type": "object", "maxProperties": 0}}
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
ADD = {"type": "function", "function": {"name": "add"}}


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "smol", "messages": ASK, "tools": TOOLS, "max_tokens": 80, "temperature": 0} | changes
    )


def check(call: Any) -> None:
    assert call.type == "function"
    assert call.id.startswith("call_")
    Draft202012Validator(SCHEMAS[call.function.name]).validate(json.loads(call.function.arguments))


def test_a_named_tool_is_called_once(client: openai.OpenAI) -> None:
    for choice in ask(client, tool_choice=ADD, temperature=1.5, seed=1, n=4).choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        assert call.function.name == "add"
        check(call)


def test_some_tool_is_called_if_one_must_be(client: openai.OpenAI) -> None:
    for parallel in (True, False):
        choices = ask(
            client, tool_choice="required", temperature=1.0, seed=3, n=4, parallel_tool_calls=parallel
        ).choices
        for choice in choices:
            assert choice.message.tool_calls
            assert not choice.message.content
            assert parallel or len(choice.message.tool_calls) == 1
            finished = choice.message.tool_calls if choice.finish_reason == "tool_calls" else []
            for call in finished:
                check(call)
        assert len({c.id for choice in choices for c in choice.message.tool_calls}) >= 4
        assert parallel or all(choice.finish_reason == "tool_calls" for choice in choices)


def test_a_stream_brings_the_same_calls_piece_by_piece(client: openai.OpenAI) -> None:
    whole = ask(client, tool_choice="required", n=2, temperature=1.0, seed=5, parallel_tool_calls=False)
    calls: list[dict[str, str]] = [{}, {}]
    reasons: list[str | None] = [None, None]
    stream = ask(client, tool_choice="required", n=2, temperature=1.0, seed=5, parallel_tool_calls=False, stream=True,
                 stream_options={"include_usage": True})  # fmt: skip
    num_pieces = 0
    for chunk in stream:
        for choice in chunk.choices:
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            for piece in choice.delta.tool_calls or ():
                told = calls[choice.index]
                assert piece.index == 0
                if not told:
                    assert piece.type == "function"
                    assert piece.function.arguments == ""
                    told |= {"id": piece.id, "name": piece.function.name, "arguments": ""}
                else:
                    assert piece.id is None
                    assert piece.function.name is None
                told["arguments"] += piece.function.arguments
                num_pieces += 1
    assert reasons == ["tool_calls"] * 2
    assert num_pieces > 6
    for told, choice in zip(calls, whole.choices, strict=True):
        (call,) = choice.message.tool_calls
        assert (told["name"], told["arguments"]) == (call.function.name, call.function.arguments)


def test_the_clients_own_stream_helper_puts_calls_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="smol", messages=ASK, tools=[openai.pydantic_function_tool(_Add)], tool_choice="required", max_tokens=80,
        parallel_tool_calls=False,
    ) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        (choice,) = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.delta" in kinds
    assert isinstance(choice.message.tool_calls[0].function.parsed_arguments, _Add)


class _Add(BaseModel):
    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


def test_auto_answers_or_calls(client: openai.OpenAI) -> None:
    for choice in (None, "auto"):
        changes = {} if choice is None else {"tool_choice": choice}
        for one in ask(client, **changes, n=2, temperature=1.0, seed=1).choices:
            assert one.message.content or one.message.tool_calls
            assert one.finish_reason == "tool_calls" if one.message.tool_calls else one.finish_reason != "tool_calls"


def test_none_hides_the_tools(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(model="smol", messages=ASK, temperature=0, max_tokens=20)
    hidden = ask(client, tool_choice="none", max_tokens=20)
    assert hidden.choices[0].message.content == free.choices[0].message.content
    assert hidden.usage.prompt_tokens == free.usage.prompt_tokens
    assert ask(client, tools=[], tool_choice="none", max_tokens=20).usage.prompt_tokens == free.usage.prompt_tokens


def test_a_call_and_its_result_go_back(client: openai.OpenAI) -> None:
    message = ask(client, tool_choice=ADD).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "The sum is 7."}
    answer = ask(client, messages=[*ASK, message, result], tool_choice="none", max_tokens=12)
    without = ask(client, messages=ASK, tool_choice="none", max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens + 20
    again = ask(client, messages=[*ASK, message.model_dump(exclude_none=True), result], tool_choice=ADD)
    check(again.choices[0].message.tool_calls[0])


def test_tokenize_counts_tools_and_calls(client: openai.OpenAI, http: httpx.Client) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [*ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Noon"}]
    told = http.post("/tokenize", json={"model": "smol", "messages": messages, "tools": TOOLS}).json()
    assert told["count"] == ask(client, messages=messages, max_tokens=1).usage.prompt_tokens
    refused = http.post("/tokenize", json={"model": "smol", "prompt": "x", "tools": TOOLS})
    assert refused.json()["error"]["param"] == "tools"


def test_a_call_cut_short_has_the_reason_length(client: openai.OpenAI) -> None:
    choice = ask(client, tool_choice=ADD, max_tokens=14).choices[0]
    assert choice.finish_reason == "length"


def test_log_probabilities_of_calls_are_all_there(client: openai.OpenAI) -> None:
    whole = ask(client, tool_choice=ADD, logprobs=True, top_logprobs=1)
    streamed = [
        entry
        for chunk in ask(client, tool_choice=ADD, logprobs=True, top_logprobs=1, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole.choices[0].logprobs.content]


def test_a_call_that_must_be_goes_before_the_form_of_answers(client: openai.OpenAI) -> None:
    check(ask(client, tool_choice=ADD, response_format={"type": "json_object"}).choices[0].message.tool_calls[0])
    content = ask(client, tool_choice="none", extra_body={"guided_choice": ["x"]}).choices[0].message.content
    assert content == "x"


SAID = """One moment.
<tool_call>
{"name": "add", "arguments": {"a": 1, "b": 2}}
</tool_call>
<tool_call>
{"name": "now", "arguments": {}}
</tool_call>"""


def forced(client: openai.OpenAI, text: str) -> dict[str, Any]:
    """Return what makes the model say ``text``: it is the only answer, and calling at once is made unlikely."""
    asked = {"model": "smol", "prompt": "<tool_call>", "add_special_tokens": False}
    (first, *_) = client.post("/../tokenize", body=asked, cast_to=object)["tokens"]  # type: ignore[index]
    return {"logit_bias": {str(first): -100}, "extra_body": {"guided_choice": [text]}}


def test_with_auto_calls_are_read_from_what_the_model_says(client: openai.OpenAI) -> None:
    how = forced(client, SAID)
    with client.chat.completions.stream(model="smol", messages=ASK, tools=TOOLS, max_tokens=80, **how) as events:
        streamed = events.get_final_completion().choices[0]
    (whole,) = ask(client, **how).choices
    for choice in (streamed, whole):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "One moment."
        assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
            ("add", '{"a": 1, "b": 2}'),
            ("now", "{}"),
        ]
        assert len({call.id for call in choice.message.tool_calls}) == 2


def test_text_that_is_no_call_is_an_answer(client: openai.OpenAI) -> None:
    said = 'So: <tool_call> is how. {"name": "add"}'
    (choice,) = ask(client, **forced(client, said)).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (said, None, "stop")


def test_with_auto_the_model_answers_in_the_form_asked_for_or_calls(client: openai.OpenAI) -> None:
    for choice in ask(client, n=4, temperature=1.5, seed=1, extra_body={"guided_choice": ["fine", "bad"]}).choices:
        if choice.message.tool_calls:
            check(choice.message.tool_calls[0])
        else:
            assert choice.message.content in ("fine", "bad")


def test_strict_tools_are_strict_with_auto_too(client: openai.OpenAI) -> None:
    strict = [{**one, "function": {**one["function"], "strict": True}} for one in TOOLS]
    for choice in ask(client, tools=strict, n=4, temperature=1.0, seed=1, max_tokens=40).choices:
        assert choice.message.content or choice.message.tool_calls
        for call in choice.message.tool_calls or () if choice.finish_reason == "tool_calls" else ():
            check(call)


def tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f"} | function}]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": "f"}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": tool(name="a b")}, "tools[0].function.name"),
    ({"tools": tool(parameters={"type": "string"})}, "tools[0].function.parameters"),
    ({"tools": tool() * 2}, "tools[1].function.name"),
    ({"tools": tool(), "tool_choice": "any"}, "tool_choice"),
    ({"tools": tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": tool(), "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": tool(parameters={"properties": {"a": {"$ref": "#/no"}}}), "tool_choice": "required"}, "tools"),
    ({"tools": tool(), "guided_grammar": "start: /a/"}, "guided_grammar"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "assistant", "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": '{"x": "\\ud800"}'}}]}]}, "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_what_is_wrong_is_refused_by_name(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    response = http.post("/v1/chat/completions", json={"model": "smol", "messages": ASK, "max_tokens": 9, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
