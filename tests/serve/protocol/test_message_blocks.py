"""Blocks of Anthropic's messages: as turns of ours, and out of a completion's text."""

from __future__ import annotations

import json

import pytest

from steelyard.serve.protocol.message_blocks import BlockWriter, TextBlock, ToolResultBlock, ToolUseBlock, turns_of
from steelyard.serve.sse import to_json
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import HERMES
from steelyard.serve.tools.plan import ToolPlan, plan_tools

SAID = 'So: <tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call>'


@pytest.fixture
def plan() -> ToolPlan:
    return plan_tools([Tool(name="f", parameters={"type": "object"})], ToolChoice(ToolMode.AUTO), HERMES)


def test_results_come_before_the_texts_beside_them():
    content = [
        ToolResultBlock(type="tool_result", tool_use_id="x", content="no", is_error=True),
        TextBlock(type="text", text="So?"),
    ]
    assert list(turns_of("user", content)) == [
        {"role": "tool", "tool_call_id": "x", "content": "Error: no"},
        {"role": "user", "content": "So?"},
    ]
    assert [turn["role"] for turn in turns_of("user", content[:1])] == ["tool"]
    assert list(turns_of("user", [])) == [{"role": "user", "content": ""}]


def test_texts_and_calls_are_one_turn():
    call = ToolUseBlock(type="tool_use", id="x", name="f", input={"a": 1})
    function = {"name": "f", "arguments": {"a": 1}}
    (turn,) = turns_of("assistant", [TextBlock(type="text", text="So: "), call])
    assert turn["content"] == "So: "
    assert turn["tool_calls"] == [{"id": "x", "type": "function", "function": function}]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_add_up_to_the_blocks(plan, size):
    writer, events = BlockWriter(plan), []
    for at in range(0, len(SAID), size):
        events += writer.feed(SAID[at : at + size], ended=at + size >= len(SAID))
    text, call = writer.content()
    assert text == {"type": "text", "text": "So:"}
    assert (call["name"], call["input"]) == ("f", {"a": [1, "}"]})
    assert writer.has_called
    kinds = [event.event for event in events if "delta" not in event.data]
    assert (
        kinds
        == [
            "content_block_start",
            "content_block_stop",
        ]
        * 2
    )
    pieces = [event.data["delta"].get("partial_json", "") for event in events if "delta" in event.data]
    assert json.loads("".join(pieces)) == call["input"]


@pytest.mark.parametrize("arguments", ['{"a": 1', '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "{a}"])
def test_input_that_is_no_json_is_told_as_text(plan, arguments):
    writer = BlockWriter(plan)
    writer.feed('<tool_call>\n{"name": "f", "arguments": ' + arguments, ended=True)
    (call,) = writer.content()
    assert call["input"] == {"INVALID_JSON": arguments}
    assert to_json(call).encode()


def test_without_tools_all_is_text():
    writer = BlockWriter(None)
    assert [event.event for event in writer.feed(SAID, ended=False)] == ["content_block_start", "content_block_delta"]
    assert [event.event for event in writer.feed("", ended=True)] == ["content_block_stop"]
    assert writer.content() == [{"type": "text", "text": SAID}]
    assert BlockWriter(None).feed("", ended=True) == []
