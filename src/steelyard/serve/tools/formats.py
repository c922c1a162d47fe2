"""How models write tool calls: :class:`ToolFormat`, and which one a model speaks, from its chat template.

Left out: formats whose arguments are no JSON (XML parameters, Python calls) and Mistral's newer
``[TOOL_CALLS]name[ARGS]{…}``. Models that speak them are taught Hermes' by a system message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from steelyard.core.errors import ParamsError
from steelyard.models.text.chat import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A way to write calls: ``marker opening object closing``, or several objects with ``separator`` between them.

    Attributes:
        marker: begins calls; in some models a control token.
        arguments_key: under which a call's object has its arguments, beside ``name``.
        opening: before the first object.
        separator: between objects behind one marker; ``None`` if every call has a marker of its own.
        closing: after the last object.
        bare_start: a text may begin with an object at once, without the marker.
        id_chars: letters and digits of a call's id, where templates are particular about it.
        knows_tools: the model's template takes ``tools``; otherwise a system message of ours describes them.
    """

    marker: str
    arguments_key: str = "arguments"
    opening: str = ""
    separator: str | None = None
    closing: str = ""
    bare_start: bool = False
    id_chars: int = 24
    knows_tools: bool = True


HERMES = ToolFormat(marker="<tool_call>", opening="\n", closing="\n</tool_call>")
LLAMA = ToolFormat(marker="<|python_tag|>", arguments_key="parameters", separator="; ", bare_start=True)
MISTRAL = ToolFormat(marker="[TOOL_CALLS]", opening="[", separator=", ", closing="]", id_chars=9)

AUTO_FORMAT = "auto"
TOOL_FORMATS: Mapping[str, ToolFormat] = {
    "hermes": HERMES,
    "qwen": HERMES,
    "llama3_json": LLAMA,
    "mistral": MISTRAL,
}

_USES_TOOLS = re.compile(r"\btools\b")


def tool_format(template: ChatTemplate | None, name: str = AUTO_FORMAT) -> ToolFormat:
    """Return the format that a model speaks: the one called ``name``, or the one that its template teaches.

    Raises:
        ParamsError: if there is no format of this name.
    """
    source = "" if template is None else template.tool_source
    if name != AUTO_FORMAT:
        return replace(_named(name), knows_tools=_USES_TOOLS.search(source) is not None)
    return _taught(source) or replace(HERMES, knows_tools=False)


def _named(name: str) -> ToolFormat:
    if name not in TOOL_FORMATS:
        remedy = f"Use one of {', '.join([AUTO_FORMAT, *TOOL_FORMATS])}"
        raise ParamsError(f"there is no format {name!r:.40}", field="tool_call_parser", remedy=remedy)
    return TOOL_FORMATS[name]


def _taught(source: str) -> ToolFormat | None:
    if not _USES_TOOLS.search(source) or "<function=" in source or "[ARGS]" in source:
        return None
    if HERMES.marker in source:
        return HERMES
    if MISTRAL.marker in source:
        return MISTRAL
    knows_llama = '"parameters"' in source and (LLAMA.marker in source or "ipython" in source)
    return LLAMA if knows_llama else None
