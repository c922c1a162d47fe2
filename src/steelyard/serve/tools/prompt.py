"""Conversations with tools, as chat templates expect them: :func:`tool_conversation`.

Templates that know tools get them, and past calls with their arguments as objects. To all others tools are described
by a system message of ours, and past calls and results are written into plain messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.core.errors import PromptError
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import ToolFormat

ChatMessage = Mapping[str, Any]
_RESULT_OPEN, _RESULT_CLOSE = "<tool_response>", "</tool_response>"


def tool_conversation(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], style: ToolFormat
) -> tuple[list[ChatMessage], list[dict[str, object]] | None]:
    """Return the messages and the ``tools`` argument to give to the chat template.

    Args:
        messages: in OpenAI's form; what has nothing to do with tools is left for the template's own checks.
        tools: what the model may call now.
        style: the model's.

    Raises:
        PromptError: naming the part of a past call that is malformed.
    """
    turns = [_with_objects(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if style.knows_tools:
        return turns, [tool.as_json() for tool in tools] or None
    plain = [_as_text(message, style) for message in turns]
    return (_with_system(plain, _describe(tools, style)) if tools else plain), None


def _with_objects(message: ChatMessage, field: str) -> ChatMessage:
    """Return a message whose calls have their arguments as objects, not as JSON in a string."""
    if message.get("role") == "function" or message.get("function_call") is not None:
        raise PromptError("functions are not supported", field=field, remedy="Send tool_calls and the role tool")
    calls = message.get("tool_calls")
    if calls is None:
        return message
    if not isinstance(calls, list):
        raise _malformed(f"{field}.tool_calls", "it is not a list of calls")
    return {**message, "tool_calls": [_with_object(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(calls)]}


def _with_object(call: object, field: str) -> dict[str, object]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise _malformed(field, 'it is not of the form {"id": …, "type": "function", "function": {…}}')
    if not isinstance(function.get("name"), str):
        raise _malformed(f"{field}.function.name", "it is not a text")
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"), field)}}


def _arguments(given: object, field: str) -> dict[str, object]:
    try:
        value = json.loads(given or "{}") if given is None or isinstance(given, str) else given
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _malformed(f"{field}.function.arguments", "it is not a JSON object in a text")
    return value


def _as_text(message: ChatMessage, style: ToolFormat) -> ChatMessage:
    """Return a message without calls and results: both become text."""
    said = _text_of(message.get("content"))
    if message.get("role") == "tool":
        return {"role": "user", "content": f"{_RESULT_OPEN}\n{said}\n{_RESULT_CLOSE}"}
    if not message.get("tool_calls"):
        return message
    written = [_written(call["function"], style) for call in message["tool_calls"]]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([said, *written] if said else written)}


def _written(function: Mapping[str, object], style: ToolFormat) -> str:
    body = {"name": function["name"], style.arguments_key: function["arguments"]}
    return f"{style.marker}{style.opening}{json.dumps(body, ensure_ascii=False)}{style.closing}"


def _text_of(content: object) -> str:
    """Return a message's text; of parts, those that are text."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _with_system(messages: list[ChatMessage], text: str) -> list[ChatMessage]:
    """Return the conversation with ``text`` at the end of its system message, or as one."""
    if messages and messages[0].get("role") == "system":
        return [{**messages[0], "content": f"{_text_of(messages[0].get('content'))}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _describe(tools: Sequence[Tool], style: ToolFormat) -> str:
    listed = "\n".join(json.dumps(tool.as_json()["function"], ensure_ascii=False) for tool in tools)
    body = f'{{"name": "<function>", "{style.arguments_key}": {{<arguments>}}}}'
    return (
        "You can call functions. Each of these lines describes one, with a JSON schema of its arguments:\n"
        f"{listed}\n\n"
        f"To call a function, write exactly this, once for each call:\n"
        f"{style.marker}{style.opening}{body}{style.closing}\n\n"
        f"Results come back between {_RESULT_OPEN} and {_RESULT_CLOSE}. "
        "If no function is needed, answer in plain words."
    )


def _malformed(field: str, problem: str) -> PromptError:
    return PromptError(problem, field=field, remedy="Send calls as they came in the assistant's message")
