"""Items of responses: as turns of ours, and out of a completion's text."""

from __future__ import annotations

from itertools import count

import pytest

from steelyard.serve.protocol.response_items import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    ItemWriter,
    answered_turn,
    turns_of,
)
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import HERMES
from steelyard.serve.tools.plan import plan_tools

PLAN = plan_tools([Tool(name="f", parameters={"type": "object"})], ToolChoice(ToolMode.AUTO), HERMES)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def call(name: str) -> FunctionCall:
    return FunctionCall(type="function_call", call_id=name, name="f", arguments="{}")


def test_calls_go_with_the_words_before_them():
    items = [
        InputMessage(role="developer", content="Be brief."),
        InputMessage(role="assistant", content="So:"),
        call("x"),
        call("y"),
        FunctionCallOutput(type="function_call_output", call_id="x", output="1"),
        call("z"),
    ]
    turns = turns_of(items)
    assert [turn["role"] for turn in turns] == ["system", "assistant", "tool", "assistant"]
    assert [one["id"] for one in turns[1]["tool_calls"]] == ["x", "y"]
    assert turns[2] == {"role": "tool", "tool_call_id": "x", "content": "1"}
    assert turns[3]["content"] == ""


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_events_add_up_to_the_items(size):
    writer, events, said = ItemWriter(PLAN, count()), [], f"Well. {CALL}\n{CALL}"
    for at in range(0, len(said), size):
        events += writer.feed(said[at : at + size])
    events += writer.end("completed")
    text, first, second = writer.items
    assert text["content"][0]["text"] == "Well."
    assert first["arguments"] == second["arguments"] == '{"a": 1}'
    assert len({item["id"] for item in writer.items}) == 3
    assert [event.data["item"] for event in events if event.event == "response.output_item.done"] == writer.items
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    for number, item in enumerate(writer.items):
        mine = [event.data for event in events if event.data["output_index"] == number]
        grown = "".join(one["delta"] for one in mine if "delta" in one)
        assert grown == item.get("arguments", text["content"][0]["text"])
    turn = answered_turn(writer.items)
    assert turn["content"] == "Well."
    assert len(turn["tool_calls"]) == 2


def test_there_is_one_item_at_least():
    writer = ItemWriter(None, count())
    kinds = [event.event.removeprefix("response.") for event in writer.end("incomplete")]
    assert kinds == [
        "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    assert (writer.items[0]["status"], answered_turn(writer.items)["content"]) == ("incomplete", "")
