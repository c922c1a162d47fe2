"""Tools and choices as clients write them, and calls as they read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.core.errors import ParamsError
from steelyard.serve.errors import ApiError
from steelyard.serve.protocol.chat import ChatRequest
from steelyard.serve.protocol.tools import CallWriter, read_tool_choice, read_tools, whole_message
from steelyard.serve.tools.declare import ToolChoice, ToolMode
from steelyard.serve.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat
from steelyard.serve.tools.plan import ToolPlan

F: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
G: dict[str, Any] = {"type": "function", "function": {"name": "g"}}


def request(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    made = ChatRequest.model_validate_json(json.dumps(body))
    made.check()
    return made


def plan(style: ToolFormat = HERMES, **fields: Any) -> ToolPlan:
    return request(**{"tools": [F, G]} | fields).tool_plan(style, may_decide=True)


def test_tools_are_read() -> None:
    f, g = read_tools(request(tools=[F, G]).tools)
    assert (f.name, f.strict, f.parameters) == ("f", True, {"type": "object"})
    assert (g.name, g.strict, g.description) == ("g", False, "")
    assert g.parameters["additionalProperties"] is False
    assert read_tools(None) == []


def test_choices_are_read() -> None:
    assert read_tool_choice(None, has_tools=True) == ToolChoice(ToolMode.AUTO)
    assert read_tool_choice(None, has_tools=False) == ToolChoice(ToolMode.NONE)
    assert read_tool_choice("required", has_tools=True) == ToolChoice(ToolMode.REQUIRED)
    named: Any = {"type": "function", "function": {"name": "f"}}
    assert read_tool_choice(named, has_tools=True) == ToolChoice(ToolMode.REQUIRED, "f")
    for wrong in ("any", {}, {"type": "function"}, {"type": "function", "function": {"name": 5}}):
        with pytest.raises(ApiError) as caught:
            read_tool_choice(wrong, has_tools=True)
        assert caught.value.param == "tool_choice"


def test_plans() -> None:
    assert [tool.name for tool in plan().tools] == ["f", "g"]
    assert not plan().required
    assert plan().max_calls > 1
    assert plan(parallel_tool_calls=False).max_calls == 1
    assert plan(tool_choice="required").required
    named = plan(tool_choice={"type": "function", "function": {"name": "g"}})
    assert ([tool.name for tool in named.tools], named.required, named.max_calls) == (["g"], True, 1)
    assert plan(tool_choice="none").tools == ()
    assert plan(tools=None).tools == ()


def test_leaving_it_to_the_model_can_be_switched_off() -> None:
    with pytest.raises(ApiError, match="auto is switched off") as caught:
        request(tools=[F]).tool_plan(HERMES, may_decide=False)
    assert caught.value.param == "tool_choice"
    assert request(tools=[F], tool_choice="required").tool_plan(HERMES, may_decide=False).required
    assert request(tool_choice="auto").tool_plan(HERMES, may_decide=False).tools == ()


@pytest.mark.parametrize("name", ["functions", "function_call"])
def test_what_tools_have_replaced_is_refused_by_name(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(**{name: [{"name": "f"}]})
    assert caught.value.param == name
    assert "instead" in caught.value.message


def test_a_tool_that_is_wrong_is_named() -> None:
    wrong = {"type": "function", "function": {"name": "a b"}}
    with pytest.raises(ParamsError) as caught:
        plan(tools=[F, wrong])
    assert caught.value.field == "tools[1].function.name"


def spoken(style: ToolFormat) -> str:
    calls = [{"name": "f", style.arguments_key: {"x": 1}}, {"name": "g", style.arguments_key: {}}]
    bodies = [json.dumps(call) for call in calls]
    groups = bodies if style.separator is None else [style.separator.join(bodies)]
    return "".join(f"{style.marker}{style.opening}{group}{style.closing}" for group in groups)


@pytest.mark.parametrize("style", [HERMES, LLAMA, MISTRAL], ids=["hermes", "llama", "mistral"])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_are_written_as_clients_read_them(style: ToolFormat, size: int) -> None:
    writer, text, deltas = CallWriter(plan(style)), spoken(style), []
    for start in range(0, len(text), size):
        deltas += writer.deltas(text[start : start + size], ended=start + size >= len(text))
    assert writer.has_called
    for index in (0, 1):
        pieces = [call for delta in deltas for call in delta["tool_calls"] if call["index"] == index]
        assert set(pieces[0]) == {"index", "id", "type", "function"}
        assert pieces[0]["function"] == {"name": "fg"[index], "arguments": ""}
        assert all(set(piece) == {"index", "function"} for piece in pieces[1:])
    content, calls = whole_message(deltas)
    assert content == ""
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert all("index" not in call for call in calls)
    assert len({call["id"] for call in calls}) == 2


def test_ids_are_as_templates_want_them() -> None:
    assert plan().new_call_id().startswith("call_")
    short = plan(MISTRAL).new_call_id()
    assert len(short) == 9
    assert short.isalnum()


@pytest.mark.parametrize("tools", [None, plan(tool_choice="none")], ids=["no plan", "no tools"])
def test_without_tools_all_is_content(tools: ToolPlan | None) -> None:
    writer = CallWriter(tools)
    text = spoken(HERMES)
    assert whole_message(writer.deltas(text, ended=True)) == (text, [])
    assert writer.deltas("", ended=True) == []
    assert not writer.has_called
