"""The language of tool calls, for models that must call a tool, or must do it properly if they do.

What is the same in every call is fixed to the character, so that the model decides on names and arguments alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.core.constraint import Constraint
from steelyard.engine.lark import ONE_LINE, json_rule, literal, regex, rule, token
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import ToolFormat

MAX_CALLS = 32
_ANY = "(?s:.*)"
_NO_OBJECT = r"[ \t\r\n]*([^{ \t\r\n](?s:.*))?"
_NEW_LINE = "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGrammar:
    """The calls that a model may make, as constraints. All of them raise :class:`ParamsError` if they get too large.

    Attributes:
        tools: what may be called.
        style: how the model writes calls.
        max_calls: how many of them there may be.
        tokenizer: of the model, to know which parts of ``style`` are control tokens.
    """

    tools: Sequence[Tool]
    style: ToolFormat
    max_calls: int
    tokenizer: Tokenizer

    def calls(self) -> Constraint:
        """Return the constraint to calls alone, at least one."""
        return self._constraint("start: calls")

    def calls_or(self, answer: Constraint) -> Constraint:
        """Return the constraint to either calls behind their marker, or a text that fulfils ``answer``, no grammar."""
        marked = "group" if self.style.bare_start else "calls"  # both may be objects: the first character decides
        return self._constraint(f"start: {marked} | answer\n{rule('answer', answer)}", answer.asked_by)

    def calls_within_text(self) -> Constraint:
        """Return the constraint to any text in which whatever begins as a call goes on as one."""
        marker = self.style.marker
        if self.style.bare_start:
            return self._constraint(f"start: calls | OTHER\nOTHER: {regex(_NO_OBJECT)}")
        if marker in self.tokenizer.control_texts:
            return self._constraint(f"start: TEXT (group TEXT){{0,{self.max_calls}}}\nTEXT: {regex(_ANY)}")
        return self._constraint(
            f"start: (lead rest){{0,{self.max_calls}}} OTHER\n"
            f"lead[suffix={literal(marker)}]: {regex(_ANY)}\n"
            f"OTHER: {regex(_ANY)} & ~{regex(_ANY + re.escape(marker) + _ANY)}"
        )

    def _constraint(self, start: str, asked_by: str | None = None) -> Constraint:
        calls = "rest" if self.style.bare_start else "group"
        if self.style.separator is None:
            calls = self._several("group", _NEW_LINE)
        rules = [
            start,
            f"calls: {calls}",
            f"group: {self._fixed(self.style.marker)} rest",
            f"rest: {self._fixed(self.style.opening)} {self._called} {self._fixed(self.style.closing)}",
            f"call: {' | '.join(f'call_{i}' for i in range(len(self.tools)))}",
            *(f"call_{i}: {self._call(tool)}" for i, tool in enumerate(self.tools)),
        ]
        return Constraint.grammar("\n".join(rules), asked_by or "tools")

    @property
    def _called(self) -> str:
        return "call" if self.style.separator is None else self._several("call", self.style.separator)

    def _several(self, name: str, separator: str) -> str:
        more = self.max_calls - 1
        return f"{name} ({literal(separator)} {name}){{0,{more}}}" if more else name

    def _call(self, tool: Tool) -> str:
        head = f'{{"name": {json.dumps(tool.name)}, "{self.style.arguments_key}": '
        return f"{literal(head)} {json_rule({'type': 'object', **tool.parameters}, ONE_LINE)} {literal('}')}"

    def _fixed(self, text: str) -> str:
        """Return what stands for ``text``, whether or not the core of it is a control token."""
        core = text.strip()
        if core not in self.tokenizer.control_texts:
            return literal(text)
        before, after = text.split(core)
        return " ".join([literal(before), token(self.tokenizer.control_id(core)), literal(after)])
