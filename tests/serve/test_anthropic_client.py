"""The official Anthropic client against a real server with the default model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from live_server import KEYS, LiveServer

GREEDY = {"temperature": 0}
ASK: list[Any] = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture
def claude(live: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key=KEYS["ann"], max_retries=0, timeout=60) as made:
        yield made


def ask(claude: anthropic.Anthropic, **changes: Any) -> Any:
    return claude.messages.create(**{"model": "smol", "messages": ASK, "max_tokens": 8, "extra_body": GREEDY} | changes)


def test_a_message(claude):
    message = ask(claude)
    assert message.type == "message"
    assert message.role == "assistant"
    assert message.id.startswith("msg-")
    assert message.model == "smol"
    (block,) = message.content
    assert "Paris" in block.text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.stop_sequence is None
    assert 0 < message.usage.output_tokens <= 8
    assert message._request_id


def test_the_same_answer_as_a_chat(claude, client):
    chat = client.chat.completions.create(
        model="smol", messages=[{"role": "system", "content": "Be brief."}, *ASK], max_tokens=8, temperature=0
    )
    blocks: Any = [
        {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    for system in ("Be brief.", blocks):
        message = ask(claude, system=system)
        assert message.content[0].text == chat.choices[0].message.content
        usage = message.usage
        assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    in_blocks: Any = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    assert ask(claude, messages=in_blocks).content == ask(claude).content


def test_the_last_turn_may_be_continued(claude):
    begun = [*ASK, {"role": "assistant", "content": "The capital of France is the city of"}]
    assert "Paris" in ask(claude, messages=begun).content[0].text


def test_stop_sequences(claude):
    message = ask(claude, stop_sequences=["Paris"], max_tokens=30)
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "Paris"
    assert "France" in message.content[0].text
    assert "Paris" not in message.content[0].text
    assert ask(claude, max_tokens=1).stop_reason == "max_tokens"


def test_a_stream_has_its_events_in_order(claude):
    whole = ask(claude)
    events = list(ask(claude, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == whole.content[0].text
    assert events[0].message.usage.output_tokens == 0
    assert events[-2].delta.stop_reason == whole.stop_reason
    assert events[-2].usage.output_tokens == whole.usage.output_tokens


def test_the_clients_own_gathering_of_a_stream(claude):
    with claude.messages.stream(model="smol", messages=ASK, max_tokens=8, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text == ask(claude).content[0].text
    assert final.stop_reason is not None


def test_streams_have_pings_and_names(live):
    body = {"model": "smol", "messages": ASK, "max_tokens": 2, "stream": True}
    headers = {"x-api-key": KEYS["ann"], "anthropic-version": "2023-06-01"}
    lines = httpx.post(live.url + "/v1/messages", json=body, headers=headers).text.splitlines()
    assert lines[0] == "event: message_start"
    assert 'data: {"type":"ping"}' in lines
    assert "[DONE]" not in lines[-2]


def test_count_tokens(claude, http):
    counted = claude.messages.count_tokens(model="smol", messages=ASK, system="Be brief.").input_tokens
    messages = [{"role": "system", "content": "Be brief."}, *ASK]
    assert counted == http.post("/tokenize", json={"messages": messages}).json()["count"]


def test_errors_are_the_clients_own(claude, live):
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(claude, model="none")
    assert missing.value.body["type"] == "error"
    assert missing.value.body["error"]["type"] == "not_found_error"
    assert missing.value.request_id
    with pytest.raises(anthropic.AuthenticationError) as refused:
        ask(claude.with_options(api_key="wrong-key"))
    assert refused.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.BadRequestError) as long:
        ask(claude, messages=[{"role": "user", "content": "word " * 600}])
    assert "context" in long.value.body["error"]["message"]
    with pytest.raises(anthropic.RequestTooLargeError):
        ask(claude, messages=[{"role": "user", "content": "x" * 250_000}])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content"),
        ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
        ({"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{"name": "web_search", "type": "web_search_20250305"}]}, "tools[0].type"),
        ({"messages": [*ASK, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "x", "name": "f", "input": {}}]}]}, "messages"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"seed": 1}, "seed"),
        ({"stop_sequences": [""]}, "stop"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(http, changes, name):
    body = {"model": "smol", "messages": ASK, "max_tokens": 2} | changes
    answer = http.post("/v1/messages", json={key: value for key, value in body.items() if value is not None})
    assert answer.status_code == 400
    told = answer.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["message"].startswith(name)


def test_what_the_browsers_gate_says_stays_as_it_is(live):
    headers = {"Origin": "https://bad.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(live.url + "/v1/messages", headers=headers)
    assert answer.status_code == 400
    assert "origin" in answer.text
