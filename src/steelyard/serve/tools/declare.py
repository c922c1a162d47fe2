"""What a client says of tools: the functions, and whether and which of them the model must call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from steelyard.core.constraint import MAX_SCHEMA_CHARS, schema_problem
from steelyard.core.errors import ParamsError

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_PARAMETERS: Mapping[str, object] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: 1 to 64 letters, digits, ``_``, ``.`` and ``-``.
        description: what it does.
        parameters: JSON schema of the object of its arguments.
    """

    name: str
    description: str
    parameters: Mapping[str, object]

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


def parse_tools(given: object, field: str = "tools") -> tuple[Tool, ...]:
    """Return the tools in a request: ``[{"type": "function", "function": {…}}, …]``; none for ``None``.

    Raises:
        ParamsError: naming the part that is malformed, over a limit, or there twice.
    """
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise _wrong(field, "it is not a list of tools")
    if len(given) > MAX_TOOLS:
        raise _wrong(field, f"{len(given)} tools are over the limit of {MAX_TOOLS}")
    tools = tuple(_tool(one, f"{field}[{i}]") for i, one in enumerate(given))
    names = [tool.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _wrong(f"{field}[{i}].function.name", f"{name!r} is there twice")
    return tools


def parse_tool_choice(given: object, tools: Sequence[Tool], field: str = "tool_choice") -> ToolChoice:
    """Return what ``tool_choice`` says: a mode, or ``{"type": "function", "function": {"name": …}}``.

    Raises:
        ParamsError: if it says anything else, or asks for a tool that is not among ``tools``.
    """
    if given is None:
        return ToolChoice(ToolMode.AUTO if tools else ToolMode.NONE)
    if isinstance(given, str):
        modes = {mode.value: mode for mode in ToolMode}
        if given not in modes:
            raise _wrong(field, f"{given!r:.40} is not one of {', '.join(modes)}")
        choice = ToolChoice(modes[given])
    else:
        choice = ToolChoice(ToolMode.REQUIRED, _chosen_name(given, field))
    if choice.mode is ToolMode.REQUIRED and not tools:
        raise _wrong(field, "there are no tools to call")
    if choice.name is not None and choice.name not in {tool.name for tool in tools}:
        raise _wrong(field, f"{choice.name!r:.80} is not among the tools")
    return choice


def _chosen_name(given: object, field: str) -> str:
    function = given.get("function") if isinstance(given, Mapping) and given.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise _wrong(field, 'it is neither a word nor {"type": "function", "function": {"name": …}}')
    return name


def _tool(given: object, field: str) -> Tool:
    if not isinstance(given, Mapping) or given.get("type") != "function":
        raise _wrong(field, 'it is not of the form {"type": "function", "function": {…}}')
    function = given.get("function")
    if not isinstance(function, Mapping):
        raise _wrong(f"{field}.function", "it is not an object")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(f"{field}.function.name", f"{name!r:.80} is not 1 to 64 letters, digits, '_', '.' and '-'")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{field}.function.description", "it is not a text")
    if len(description or "") > MAX_DESCRIPTION_CHARS:
        raise _wrong(f"{field}.function.description", f"it is longer than {MAX_DESCRIPTION_CHARS} characters")
    parameters = _parameters(function.get("parameters"), f"{field}.function.parameters")
    return Tool(name=name, description=description or "", parameters=parameters)


def _parameters(given: object, field: str) -> Mapping[str, object]:
    if given is None or given == {}:
        return _NO_PARAMETERS
    problem = schema_problem(given) or _size_problem(given)
    if problem is not None:
        raise _wrong(field, problem)
    assert isinstance(given, dict)
    if given.get("type", "object") != "object":
        raise _wrong(field, "its type is not object")
    return {"type": "object", **given}


def _size_problem(schema: object) -> str | None:
    try:
        num_chars = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        return f"it cannot be written as JSON: {error}"
    return f"{num_chars} characters are over the limit of {MAX_SCHEMA_CHARS}" if num_chars > MAX_SCHEMA_CHARS else None


def offered(tools: Iterable[Tool], choice: ToolChoice) -> tuple[Tool, ...]:
    """Return the tools that the model is to see: none if it shall call none."""
    return () if choice.mode is ToolMode.NONE else tuple(tools)


def _wrong(field: str, problem: str) -> ParamsError:
    return ParamsError(f"{problem:.300}", field=field, remedy="Send tools as in OpenAI's chat completions")
