"""What a client says of tools: the functions, and whether and which of them the model must call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from steelyard.core.constraint import MAX_SCHEMA_CHARS, schema_problem
from steelyard.core.errors import ParamsError

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: 1 to 64 letters, digits, ``_``, ``.`` and ``-``.
        description: what it does.
        parameters: JSON schema of the object of its arguments.
        strict: its arguments must fulfil the schema even where the model decides whether to call it.
        field: where in the request it stands, for errors.
        schema_field: what the client calls ``parameters`` there.

    Raises:
        ParamsError: naming the part that is wrong or over a limit.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object]
    strict: bool = False
    field: str = "tools"
    schema_field: str = "parameters"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise _wrong(f"{self.field}.name", f"{self.name!r:.80} is not 1 to 64 letters, digits, '_', '.' and '-'")
        if len(self.description) > MAX_DESCRIPTION_CHARS:
            raise _wrong(f"{self.field}.description", f"it is longer than {MAX_DESCRIPTION_CHARS} characters")
        problem = schema_problem(self.parameters) or _parameters_problem(self.parameters)
        if problem is not None:
            raise _wrong(f"{self.field}.{self.schema_field}", problem)

    def as_json(self) -> dict[str, object]:
        """Return it in OpenAI's form, which chat templates expect."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class ToolMode(Enum):
    """Whether the model calls tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls tools, and which; a name goes with ``REQUIRED``."""

    mode: ToolMode
    name: str | None = None


def choose_tools(tools: Sequence[Tool], choice: ToolChoice, field: str = "tool_choice") -> tuple[Tool, ...]:
    """Return the tools that the model may call now.

    Raises:
        ParamsError: if there are too many, two of one name, or none to be called though one must be.
    """
    names = [tool.name for tool in tools]
    if len(tools) > MAX_TOOLS:
        raise _wrong("tools", f"{len(tools)} tools are over the limit of {MAX_TOOLS}")
    for i, tool in enumerate(tools):
        if tool.name in names[:i]:
            raise _wrong(f"{tool.field}.name", f"{tool.name!r} is there twice")
    if choice.mode is ToolMode.REQUIRED and not tools:
        raise _wrong(field, "there are no tools to call")
    if choice.name is not None and choice.name not in names:
        raise _wrong(field, f"{choice.name!r:.80} is not among the tools")
    if choice.mode is ToolMode.NONE:
        return ()
    return tuple(tool for tool in tools if choice.name in (None, tool.name))


def _parameters_problem(schema: Mapping[str, object]) -> str | None:
    if schema.get("type", "object") != "object":
        return "its type is not object"
    num_chars = len(json.dumps(schema))
    return f"{num_chars} characters are over the limit of {MAX_SCHEMA_CHARS}" if num_chars > MAX_SCHEMA_CHARS else None


def _wrong(field: str, problem: str) -> ParamsError:
    return ParamsError(f"{problem:.300}", field=field, remedy="Correct it, or leave it out")
