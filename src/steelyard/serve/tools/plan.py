"""All that one request's tools mean for its prompt, its sampling and its answer: :class:`ToolPlan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steelyard.core.constraint import Constraint
from steelyard.core.params import SamplingParams
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.serve.identity import new_call_id
from steelyard.serve.tools.declare import Tool, ToolChoice, ToolMode, choose_tools
from steelyard.serve.tools.formats import ToolFormat
from steelyard.serve.tools.grammar import MAX_CALLS, CallGrammar
from steelyard.serve.tools.prompt import ChatMessage, tool_conversation
from steelyard.serve.tools.reader import ToolReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """What the model may call, and how it says so.

    Attributes:
        tools: what it may call now.
        style: how it writes calls.
        required: it must call at least one of them.
        max_calls: and at most so many.
    """

    tools: tuple[Tool, ...]
    style: ToolFormat
    required: bool
    max_calls: int

    def conversation(self, messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[dict[str, object]] | None]:
        """Return messages and tools for the chat template; see :func:`~.prompt.tool_conversation`."""
        return tool_conversation(messages, self.tools, self.style)

    def params(self, params: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
        """Return ``params`` under which calls can be seen, are made if they must be, and are strict if they must be.

        A constraint of the request's own is for its answers, and means nothing where there must be calls.

        Raises:
            ParamsError: if the tools are too large together, or the constraint is a grammar and the model may call.
        """
        if not self.tools:
            return params
        seen = params.skip_special_tokens and self.style.marker not in tokenizer.control_texts
        return replace(params, skip_special_tokens=seen, constraint=self._constraint(params.constraint, tokenizer))

    def _constraint(self, answer: Constraint | None, tokenizer: Tokenizer) -> Constraint | None:
        grammar = CallGrammar(tools=self.tools, style=self.style, max_calls=self.max_calls, tokenizer=tokenizer)
        if self.required:
            return grammar.calls()
        if answer is not None:
            return grammar.calls_or(answer)
        return grammar.calls_within_text() if any(tool.strict for tool in self.tools) else None

    def reader(self) -> ToolReader | None:
        """Return what reads one completion's text; ``None`` if it is all text."""
        if not self.tools:
            return None
        return ToolReader(self.style, [tool.name for tool in self.tools], self.max_calls)

    def new_call_id(self) -> str:
        """Return a name for a call."""
        return new_call_id(self.style.id_chars)


def plan_tools(tools: Sequence[Tool], choice: ToolChoice, style: ToolFormat, *, parallel: bool = True) -> ToolPlan:
    """Return the plan of a request.

    Args:
        tools: all that it declares.
        choice: whether they are called.
        style: the model's.
        parallel: there may be several calls.

    Raises:
        ParamsError: see :func:`~.declare.choose_tools`.
    """
    return ToolPlan(
        tools=choose_tools(tools, choice),
        style=style,
        required=choice.mode is ToolMode.REQUIRED,
        max_calls=MAX_CALLS if parallel and choice.name is None else 1,
    )
