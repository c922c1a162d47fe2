"""Tools in Anthropic's messages, on a live server through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from live_server import KEYS, LiveServer

SUM = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": [1, 2]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS: list[Any] = [
    {"name": "add", "description": "The sum of two numbers", "input_schema": SUM},
    {"name": "now", "type": "custom", "input_schema": NOTHING, "cache_control": {"type": "ephemeral"}},
]
ASK: list[Any] = [{"role": "user", "content": "What is 3 and 2?"}]
ADD = {"type": "tool", "name": "add"}


@pytest.fixture
def claude(live: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key=KEYS["ann"], max_retries=0, timeout=60) as made:
        yield made


def ask(claude: anthropic.Anthropic, **changes: Any) -> Any:
    fields = {"model": "smol", "messages": ASK, "tools": TOOLS, "max_tokens": 80, "extra_body": {"temperature": 0}}
    return claude.messages.create(**fields | changes)


def check(block: Any) -> None:
    assert block.type == "tool_use"
    assert block.id
    assert block.name in ("add", "now")
    if block.name == "add":
        assert 0 <= block.input["a"] <= 99
        assert block.input["b"] in (1, 2)
    else:
        assert block.input == {}


def test_a_named_tool_is_called_once(claude):
    message = ask(claude, tool_choice=ADD)
    (block,) = message.content
    assert message.stop_reason == "tool_use"
    assert block.name == "add"
    check(block)


def test_any_calls_one_or_more_and_one_alone_if_asked(claude):
    blocks = ask(claude, tool_choice={"type": "any"}, max_tokens=60).content
    assert blocks
    assert all(block.type == "tool_use" for block in blocks)
    only = ask(claude, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    (block,) = only.content
    check(block)


def test_none_hides_the_tools(claude):
    hidden = ask(claude, tool_choice={"type": "none"}, max_tokens=8)
    free = claude.messages.create(model="smol", messages=ASK, max_tokens=8, extra_body={"temperature": 0})
    assert hidden.content == free.content
    assert ask(claude, max_tokens=1).usage.input_tokens != free.usage.input_tokens


def test_auto_answers_or_calls(claude):
    for choice in ({}, {"tool_choice": {"type": "auto"}}):
        message = ask(claude, **choice, max_tokens=20)
        kinds = {block.type for block in message.content}
        assert kinds <= {"text", "tool_use"}
        assert kinds


def test_a_stream_brings_the_same_call_piece_by_piece(claude):
    (whole,) = ask(claude, tool_choice=ADD).content
    events = list(ask(claude, tool_choice=ADD, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert (events[1].content_block.type, events[1].content_block.name) == ("tool_use", "add")
    assert events[1].content_block.input == {}
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert len(deltas) > 3
    assert {delta.type for delta in deltas} == {"input_json_delta"}
    assert events[-2].delta.stop_reason == "tool_use"
    with claude.messages.stream(
        model="smol", messages=ASK, tools=TOOLS, tool_choice=ADD, max_tokens=80, extra_body={"temperature": 0}
    ) as stream:
        (gathered,) = stream.get_final_message().content
    assert gathered.input == whole.input


def test_a_call_and_its_result_go_back(claude):
    message = ask(claude, tool_choice=ADD)
    (call,) = message.content
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "5"},
        {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "5"}]},
        {"type": "tool_result", "tool_use_id": call.id, "content": "too large", "is_error": True},
        {"type": "tool_result", "tool_use_id": call.id},
    ]
    counts = []
    for result in results:
        content: list[Any] = [result, {"type": "text", "text": "So?"}]
        messages: Any = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": content}]
        answer = ask(claude, messages=messages, tool_choice={"type": "none"}, max_tokens=8)
        assert answer.content[0].text
        counts.append(claude.messages.count_tokens(model="smol", messages=messages, tools=TOOLS).input_tokens)
    same, in_blocks, failed, empty = counts
    assert same == in_blocks
    assert failed > same > empty


def test_count_tokens_counts_tools(claude):
    with_tools = claude.messages.count_tokens(model="smol", messages=ASK, tools=TOOLS).input_tokens
    usage = ask(claude, max_tokens=1).usage
    assert with_tools == usage.input_tokens + usage.cache_read_input_tokens
    assert with_tools > claude.messages.count_tokens(model="smol", messages=ASK).input_tokens + 20


def test_a_call_cut_short_says_so(claude):
    message = ask(claude, tool_choice=ADD, max_tokens=14)
    assert message.stop_reason == "max_tokens"
