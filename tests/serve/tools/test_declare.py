"""Tools are checked when they are made, and chosen by name."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.core.constraint import MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH
from steelyard.core.errors import ParamsError
from steelyard.serve.tools.declare import MAX_DESCRIPTION_CHARS, MAX_TOOLS, Tool, ToolChoice, ToolMode, choose_tools


def tool(name: str = "f", **changes: Any) -> Tool:
    return Tool(**{"name": name, "parameters": {"type": "object"}, "field": "tools[0].function"} | changes)


def deep(levels: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": deep(levels - 1)}} if levels else {}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a b"}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"name": 'f", "arguments": {}}'}, "name"),
    ({"description": "x" * (MAX_DESCRIPTION_CHARS + 1)}, "description"),
    ({"parameters": {"type": "string"}}, "parameters"),
    ({"parameters": deep(MAX_SCHEMA_DEPTH)}, "parameters"),
    ({"parameters": {"type": "object", "description": "x" * MAX_SCHEMA_CHARS}}, "parameters"),
]


@pytest.mark.parametrize(("changes", "part"), BAD)
def test_what_is_wrong_is_named(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ParamsError) as caught:
        tool(**changes)
    assert caught.value.field == f"tools[0].function.{part}"


def test_as_json_is_openais_form() -> None:
    assert tool(description="d").as_json() == {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
    }


def test_choices() -> None:
    both = [tool("f"), tool("g")]
    assert choose_tools(both, ToolChoice(ToolMode.AUTO)) == tuple(both)
    assert choose_tools(both, ToolChoice(ToolMode.REQUIRED)) == tuple(both)
    assert choose_tools(both, ToolChoice(ToolMode.REQUIRED, "g")) == (both[1],)
    assert choose_tools(both, ToolChoice(ToolMode.NONE)) == ()
    assert choose_tools([], ToolChoice(ToolMode.AUTO)) == ()


@pytest.mark.parametrize(
    ("tools", "choice", "field"),
    [
        ([], ToolChoice(ToolMode.REQUIRED), "tool_choice"),
        ([tool("f")], ToolChoice(ToolMode.REQUIRED, "g"), "tool_choice"),
        ([tool("f"), tool("f", field="tools[1].function")], ToolChoice(ToolMode.AUTO), "tools[1].function.name"),
        ([tool(f"f{i}") for i in range(MAX_TOOLS + 1)], ToolChoice(ToolMode.AUTO), "tools"),
    ],
)
def test_choices_that_cannot_be(tools: list[Tool], choice: ToolChoice, field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        choose_tools(tools, choice)
    assert caught.value.field == field
