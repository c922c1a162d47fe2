"""The language of tool calls, for a model that must call one: :func:`calls_constraint`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from steelyard.core.constraint import Constraint
from steelyard.engine.lark import ONE_LINE, json_rule, literal, token
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import ToolFormat

MAX_CALLS = 32
NEW_LINE = "\n"


def calls_constraint(tools: Sequence[Tool], style: ToolFormat, max_calls: int, tokenizer: Tokenizer) -> Constraint:
    """Return the constraint to calls of ``tools``, from one to ``max_calls``, as the model writes them.

    What is the same in every call is fixed to the character, so that the model decides on names and arguments alone.

    Raises:
        ParamsError: if the tools are too large together.
    """
    marker = "" if style.bare_start else f"{_fixed(style.marker, tokenizer)} "
    opening, closing = _fixed(style.opening, tokenizer), _fixed(style.closing, tokenizer)
    if style.separator is None:
        start = f"{_several('group', NEW_LINE, max_calls)}\ngroup: {marker}{opening} call {closing}"
    else:
        start = f"{marker}{opening} {_several('call', style.separator, max_calls)} {closing}"
    alternatives = " | ".join(f"call_{i}" for i in range(len(tools)))
    calls = "\n".join(f"call_{i}: {_call(tool, style)}" for i, tool in enumerate(tools))
    return Constraint.grammar(f"start: {start}\ncall: {alternatives}\n{calls}", "tools")


def _several(rule: str, separator: str, most: int) -> str:
    return rule if most == 1 else f"{rule} ({literal(separator)} {rule}){{0,{most - 1}}}"


def _call(tool: Tool, style: ToolFormat) -> str:
    head = f'{{"name": {json.dumps(tool.name)}, "{style.arguments_key}": '
    return f"{literal(head)} {json_rule({'type': 'object', **tool.parameters}, ONE_LINE)} {literal('}')}"


def _fixed(text: str, tokenizer: Tokenizer) -> str:
    """Return what stands for ``text``, whether or not the core of it is a control token."""
    core = text.strip()
    if core not in tokenizer.control_texts:
        return literal(text)
    before, after = text.split(core)
    return " ".join([literal(before), token(tokenizer.control_id(core)), literal(after)])
