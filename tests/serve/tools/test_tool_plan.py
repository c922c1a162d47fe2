"""What tools mean for sampling: when calls are constrained, and when control tokens must be seen."""

from __future__ import annotations

import pytest
from test_tool_grammar import alphabet_tokenizer

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode
from steelyard.serve.tools.formats import HERMES, MISTRAL
from steelyard.serve.tools.plan import ToolPlan, plan_tools

LOOSE = Tool(name="f", parameters={"type": "object"})
STRICT = Tool(name="g", parameters={"type": "object"}, strict=True)
PLAIN, CONTROL = alphabet_tokenizer(), alphabet_tokenizer("[TOOL_CALLS]")
FREE, YES = SamplingParams(), SamplingParams(constraint=Constraint.choice(["yes"], "guided_choice"))


def plan(mode: ToolMode, *tools: Tool) -> ToolPlan:
    return plan_tools(tools, ToolChoice(mode), HERMES)


def start_rule(made: ToolPlan, params: SamplingParams) -> str:
    constraint = made.params(params, PLAIN).constraint
    assert constraint is not None
    return constraint.texts[0].partition("\n")[0]


def test_without_tools_nothing_changes() -> None:
    assert plan(ToolMode.NONE, LOOSE, STRICT).params(YES, PLAIN) is YES
    assert plan(ToolMode.AUTO).params(YES, PLAIN) is YES
    assert plan(ToolMode.AUTO).reader() is None


def test_what_must_be_called_goes_before_the_form_of_answers() -> None:
    for params in (FREE, YES):
        assert start_rule(plan(ToolMode.REQUIRED, LOOSE), params) == "start: calls"


def test_with_auto_a_form_of_answers_is_one_of_two_ways() -> None:
    assert start_rule(plan(ToolMode.AUTO, LOOSE, STRICT), YES) == "start: calls | answer"
    grammar = SamplingParams(constraint=Constraint.grammar("start: /a/", "guided_grammar"))
    with pytest.raises(ParamsError) as caught:
        plan(ToolMode.AUTO, LOOSE).params(grammar, PLAIN)
    assert caught.value.field == "guided_grammar"


def test_with_auto_only_strict_tools_constrain() -> None:
    assert plan(ToolMode.AUTO, LOOSE).params(FREE, PLAIN) == FREE
    assert "lead" in start_rule(plan(ToolMode.AUTO, LOOSE, STRICT), FREE)


def test_control_tokens_are_shown_where_they_begin_calls() -> None:
    mistral = plan_tools([LOOSE], ToolChoice(ToolMode.AUTO), MISTRAL)
    assert not mistral.params(FREE, CONTROL).skip_special_tokens
    assert mistral.params(FREE, PLAIN).skip_special_tokens
    assert plan(ToolMode.AUTO, LOOSE).params(FREE, CONTROL).skip_special_tokens
