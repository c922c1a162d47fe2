"""Responses, asked of a real server with the official client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from live_server import KEYS

ASK = "Name the capital of France."


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    asked: dict[str, Any] = {"model": "smol", "input": ASK, "temperature": 0, "max_output_tokens": 8} | changes
    return client.responses.create(**asked)


def chat(client: openai.OpenAI, *messages: dict[str, str]) -> Any:
    given: Any = messages
    return client.chat.completions.create(model="smol", messages=given, temperature=0, max_tokens=8)


def test_the_same_answer_as_a_chat(client):
    response, same = ask(client), chat(client, {"role": "user", "content": ASK})
    assert "Paris" in response.output_text
    assert response.output_text == same.choices[0].message.content
    assert response.usage.input_tokens == same.usage.prompt_tokens
    assert response.usage.total_tokens == same.usage.total_tokens
    assert response.model == "smol"
    blocks = [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}]
    assert ask(client, input=blocks).output_text == response.output_text


def test_instructions_are_the_systems_words(client):
    same = chat(client, {"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK})
    assert ask(client, instructions="Be brief.").output_text == same.choices[0].message.content
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": ASK}]
    assert ask(client, input=turns).output_text == same.choices[0].message.content


def test_how_an_answer_ended(client):
    cut = ask(client, max_output_tokens=1)
    assert cut.status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"
    whole = ask(client, max_output_tokens=200)
    assert whole.status == "completed"
    assert whole.incomplete_details is None


def test_a_stream_has_its_events_in_order(client):
    whole = ask(client)
    events = list(ask(client, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", whole.status]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events[4:-4]) == whole.output_text == events[-1].response.output_text
    assert client.responses.retrieve(events[-1].response.id).output_text == whole.output_text


def test_one_may_go_on_from_an_answer(client):
    first = ask(client)
    more = ask(client, input="And of Spain?", previous_response_id=first.id, instructions="Be brief.")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ASK},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Spain?"},
    ]
    assert more.output_text == chat(client, *turns).choices[0].message.content
    assert more.previous_response_id == first.id
    given_back = [turns[1], *[item.model_dump(exclude_none=True) for item in first.output], turns[3]]
    assert ask(client, input=given_back, instructions="Be brief.").output_text == more.output_text


def test_answers_are_kept_for_their_own_caller(client):
    response = ask(client, metadata={"job": "1"})
    again = client.responses.retrieve(response.id)
    assert again.output_text == response.output_text
    assert again.metadata == {"job": "1"}
    with pytest.raises(openai.NotFoundError):
        client.with_options(api_key=KEYS["bob"]).responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="not in the background"):
        client.responses.cancel(response.id)
    client.responses.delete(response.id)
    for forgotten in (response.id, ask(client, store=False).id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(forgotten)
        with pytest.raises(openai.NotFoundError):
            ask(client, previous_response_id=forgotten)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "g"}},
         "tool_choice"),
        ({"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "?"}]},
         "input[0].arguments"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"conversation": "x"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"background": True, "store": False}, "background"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": []}, "input"),
        ({"temperature": -1}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"seed": 1}, "seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(http, changes, name):
    answer = http.post("/v1/responses", json={"model": "smol", "input": ASK} | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
