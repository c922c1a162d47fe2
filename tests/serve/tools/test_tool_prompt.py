"""Conversations with tools, as templates read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import PromptError
from steelyard.models.text.chat import ChatTemplate
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import HERMES, ToolFormat, tool_format
from steelyard.serve.tools.prompt import tool_conversation
from steelyard.serve.tools.reader import ArgumentsPiece, CallBegins, ToolReader

TEMPLATES = Path(__file__).parents[2] / "models" / "text" / "templates"

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
KNOWING = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<tool_call>"
    "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}\n{% endfor %}"
)
SUM = Tool(name="add", description="Adds é", parameters={"type": "object", "properties": {"x": {"type": "integer"}}})
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"x": 7}'}}
HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "It is 7"}]},
]


def rendered(source: str, messages: list[dict[str, Any]], tools: list[Tool]) -> str:
    template = ChatTemplate(source)
    turns, told = tool_conversation(messages, tools, tool_format(template))
    return template.render(turns, tools=told).text


def test_a_template_that_knows_tools_gets_them_and_arguments_as_objects() -> None:
    text = rendered(KNOWING, HISTORY, [SUM])
    assert '"name": "add"' in text
    assert "assistant: add(7)" in text
    assert "tool: It is 7" in text


def test_without_tools_it_gets_none() -> None:
    assert '"name": "add"' not in rendered(KNOWING, HISTORY, [])


def test_others_are_told_in_plain_messages() -> None:
    text = rendered(PLAIN, HISTORY, [SUM])
    system, user, assistant, result = (
        text.replace("\nuser:", "\0user:").replace("\nassistant:", "\0assistant:").split("\0")
    )
    assert system.startswith("system: Be brief.\n\n")
    assert json.dumps(SUM.as_json()["function"], ensure_ascii=False) in system
    assert "<tool_call>\n" in system
    assert user == "user: Add."
    assert assistant == 'assistant: <tool_call>\n{"name": "add", "arguments": {"x": 7}}\n</tool_call>'
    assert result == "user: <tool_response>\nIt is 7\n</tool_response>\n"


def test_a_system_message_is_made_if_there_is_none() -> None:
    turns, told = tool_conversation(HISTORY[1:], [SUM], tool_format(None))
    assert told is None
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


def test_what_the_model_said_beside_its_call_stays() -> None:
    said = {"role": "assistant", "content": "One moment.", "tool_calls": [CALL]}
    (turn,), _ = tool_conversation([said], [], tool_format(None))
    assert turn["content"].startswith("One moment.\n<tool_call>\n")


def test_messages_without_tools_are_left_alone() -> None:
    plain = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": None}]
    for style in (HERMES, tool_format(None)):
        assert tool_conversation(plain, [], style) == (plain, None)


def with_call(**changes: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "x", "tool_calls": [{**CALL, **changes}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"role": "function", "name": "f", "content": "x"}, "messages[1]"),
    ({"role": "assistant", "content": "", "function_call": {"name": "f"}}, "messages[1]"),
    ({"role": "assistant", "content": "x", "tool_calls": "f"}, "messages[1].tool_calls"),
    ({"role": "assistant", "content": "x", "tool_calls": ["f"]}, "messages[1].tool_calls[0]"),
    (with_call(function="f"), "messages[1].tool_calls[0]"),
    (with_call(function={"name": 5}), "messages[1].tool_calls[0].function.name"),
    (with_call(function={"name": "f", "arguments": "{"}), "messages[1].tool_calls[0].function.arguments"),
    (with_call(function={"name": "f", "arguments": "[1]"}), "messages[1].tool_calls[0].function.arguments"),
    (with_call(function={"name": "f", "arguments": "[" * 9999}), "messages[1].tool_calls[0].function.arguments"),
]


@pytest.mark.parametrize(("message", "field"), BAD)
@pytest.mark.parametrize("style", [HERMES, tool_format(None)], ids=["knowing", "plain"])
def test_past_calls_that_are_malformed_are_named(message: dict[str, Any], field: str, style: ToolFormat) -> None:
    with pytest.raises(PromptError) as caught:
        tool_conversation([HISTORY[1], message], [], style)
    assert caught.value.field == field


def test_arguments_may_be_missing_or_objects() -> None:
    for given, expected in ((None, {}), ("", {}), ({"x": 1}, {"x": 1})):
        (turn,), _ = tool_conversation([with_call(function={"name": "f", "arguments": given})], [], HERMES)
        assert turn["tool_calls"][0]["function"]["arguments"] == expected


def test_a_real_template_writes_calls_as_the_reader_reads_them() -> None:
    template = ChatTemplate((TEMPLATES / "qwen_tools.jinja").read_text())
    turns, told = tool_conversation(HISTORY, [SUM], tool_format(template))
    text = template.render(turns, tools=told).text
    reader = ToolReader(HERMES, ["add"])
    pieces = reader.feed(text.partition("assistant")[2])
    assert CallBegins("add") in pieces
    (arguments,) = [piece.text for piece in pieces if isinstance(piece, ArgumentsPiece)]
    assert json.loads(arguments) == {"x": 7}
