"""Functions and JSON in responses, on a live server through the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

SUM = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": [1, 2]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "name": "add", "description": "The sum", "parameters": SUM, "strict": True},
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]
ADD = {"type": "function", "name": "add"}


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    fields = {"model": "smol", "input": "3 + 2?", "tools": TOOLS, "temperature": 0, "max_output_tokens": 80}
    return client.responses.create(**fields | changes)


def test_a_named_function_is_called_once(client):
    response = ask(client, tool_choice=ADD, parallel_tool_calls=False)
    (call,) = response.output
    assert (call.type, call.name, call.status) == ("function_call", "add", "completed")
    Draft202012Validator(SUM).validate(json.loads(call.arguments))
    assert response.status == "completed"
    assert response.tool_choice.name == "add"
    assert [tool.name for tool in response.tools] == ["add", "now"]
    assert response.parallel_tool_calls is False
    assert response.output_text == ""


def test_some_function_is_called_if_one_must_be(client):
    (call,) = ask(client, tool_choice="required", parallel_tool_calls=False).output
    assert call.name in ("add", "now")
    assert {item.type for item in ask(client, tool_choice="required").output} == {"function_call"}


def test_none_hides_the_tools(client):
    hidden, free = ask(client, tool_choice="none", max_output_tokens=8), ask(client, tools=[], max_output_tokens=8)
    assert hidden.output_text == free.output_text
    assert hidden.usage.input_tokens == free.usage.input_tokens
    assert ask(client, max_output_tokens=1).usage.input_tokens > free.usage.input_tokens + 20


def test_a_stream_brings_the_same_call_piece_by_piece(client):
    (whole,) = ask(client, tool_choice=ADD).output
    events = list(ask(client, tool_choice=ADD, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    assert set(kinds[3:-3]) == {"function_call_arguments.delta"}
    assert len(kinds) > 9
    assert "".join(event.delta for event in events[3:-3]) == events[-3].arguments == whole.arguments
    assert {event.item_id for event in events[3:-2]} == {events[2].item.id}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output == [events[-2].item]


class _Sum(BaseModel):
    a: int = Field(ge=0, le=9)


def test_the_clients_own_helpers_understand_calls_and_forms(client):
    tool = openai.pydantic_function_tool(_Sum)["function"]
    tools: Any = [{"type": "function", **tool}]
    with client.responses.stream(
        model="smol", input="3?", tools=tools, tool_choice="required", parallel_tool_calls=False, max_output_tokens=60
    ) as stream:
        (call,) = stream.get_final_response().output
    assert isinstance(_Sum(**json.loads(call.arguments)), _Sum)
    parsed = client.responses.parse(model="smol", input="3?", text_format=_Sum, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, _Sum)


def test_a_call_and_its_output_go_back(client):
    first = ask(client, tool_choice=ADD)
    (call,) = first.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "The sum is 5."}
    more = ask(client, input=[output], previous_response_id=first.id, tool_choice="none", max_output_tokens=8)
    given = [{"role": "user", "content": "3 + 2?"}, call.model_dump(exclude_none=True), output]
    again = ask(client, input=given, tool_choice="none", max_output_tokens=8)
    assert more.output_text == again.output_text != ""
    assert more.usage.input_tokens == again.usage.input_tokens
    parts = [*given[:2], {**output, "output": [{"type": "input_text", "text": "The sum is 5."}]}]
    assert ask(client, input=parts, tool_choice="none", max_output_tokens=8).usage == again.usage


def test_a_call_cut_short_is_incomplete(client):
    response = ask(client, tool_choice=ADD, max_output_tokens=14)
    assert response.status == response.output[-1].status == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_json_that_fulfils_a_schema(client, stream):
    form = {"type": "json_schema", "name": "sum", "schema": SUM, "strict": True}
    answer = ask(client, tools=[], text={"format": form}, stream=stream)
    response = list(answer)[-1].response if stream else answer
    Draft202012Validator(SUM).validate(json.loads(response.output_text))
    assert response.text.format.type == "json_schema"


def test_some_json_object(client):
    response = ask(client, tools=[], text={"format": {"type": "json_object"}}, temperature=1, max_output_tokens=300)
    assert response.output_text.startswith("{")
    assert response.status == "incomplete" or isinstance(json.loads(response.output_text), dict)
