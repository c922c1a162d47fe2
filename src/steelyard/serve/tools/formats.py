"""How models write tool calls: :class:`ToolFormat`, and which one a model speaks, from its chat template.

Left out: formats whose arguments are no JSON (XML parameters, Python calls) and Mistral's newer
``[TOOL_CALLS]name[ARGS]{…}``. Models that speak them get the generic prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from steelyard.models.text.chat import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A way to write calls: ``marker opening object closing``, or several objects with ``separator`` between them.

    Attributes:
        name: what it is called.
        marker: begins calls; often one token, and sometimes a control token, so requests with tools must not leave
            special tokens out of the text.
        arguments_key: under which a call's object has its arguments, beside ``name``.
        opening: before the first object.
        separator: between objects behind one marker; ``None`` if every call has a marker of its own.
        closing: after the last object.
        bare_start: a text may begin with an object at once, without the marker.
        knows_tools: the model's template takes ``tools``; otherwise a system message of ours describes them.
    """

    name: str
    marker: str
    arguments_key: str = "arguments"
    opening: str = ""
    separator: str | None = None
    closing: str = ""
    bare_start: bool = False
    knows_tools: bool = True


HERMES = ToolFormat(name="hermes", marker="<tool_call>", closing="</tool_call>")
LLAMA = ToolFormat(
    name="llama", marker="<|python_tag|>", arguments_key="parameters", separator=";", bare_start=True
)
MISTRAL = ToolFormat(name="mistral", marker="[TOOL_CALLS]", opening="[", separator=",", closing="]")
GENERIC = ToolFormat(name="generic", marker="<tool_call>", closing="</tool_call>", knows_tools=False)

_USES_TOOLS = re.compile(r"\btools\b")


def tool_format(template: ChatTemplate | None) -> ToolFormat:
    """Return the format that a model's template teaches, the generic one if it teaches none that is known here."""
    source = "" if template is None else template.tool_source
    if not _USES_TOOLS.search(source) or "<function=" in source or "[ARGS]" in source:
        return GENERIC
    if HERMES.marker in source:
        return HERMES
    if MISTRAL.marker in source:
        return MISTRAL
    if '"parameters"' in source and (LLAMA.marker in source or "ipython" in source):
        return LLAMA
    return GENERIC
