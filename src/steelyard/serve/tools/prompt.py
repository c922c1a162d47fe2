"""Conversations with tools, as chat templates expect them: :func:`tool_conversation`.

Templates that know tools get them, and past calls with their arguments as objects. To all others tools are described
by a system message of ours, and past calls and results are written into plain messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from steelyard.models.text.chat_messages import Message
from steelyard.serve.tools.declare import Tool
from steelyard.serve.tools.formats import ToolFormat

_RESULT_OPEN, _RESULT_CLOSE = "<tool_response>", "</tool_response>"


def tool_conversation(
    messages: Sequence[Message], tools: Sequence[Tool], style: ToolFormat
) -> tuple[list[Message], list[dict[str, object]] | None]:
    """Return the messages and the ``tools`` argument to give to the chat template.

    Args:
        messages: in OpenAI's form; what is malformed in them is left for the template's own checks to find.
        tools: what the model may call now.
        style: the model's.
    """
    if style.knows_tools:
        return [_with_objects(message) for message in messages], [tool.as_json() for tool in tools] or None
    plain = [_as_text(message, style) for message in messages]
    return (_with_system(plain, _describe(tools, style)) if tools else plain), None


def _with_objects(message: Message) -> Message:
    """Return a message whose calls have their arguments as objects, not as JSON in a string."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: object) -> object:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    return {**call, "function": {**function, "arguments": _parsed(function.get("arguments"))}}


def _parsed(arguments: object) -> object:
    """Return an object for its JSON; anything else as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _as_text(message: Message, style: ToolFormat) -> Message:
    """Return a message without calls and results: both become text."""
    if not isinstance(message, Mapping):
        return message
    if message.get("role") == "tool":
        return {"role": "user", "content": f"{_RESULT_OPEN}\n{_text_of(message.get('content'))}\n{_RESULT_CLOSE}"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    said = _text_of(message.get("content"))
    written = [_written(call, style) for call in calls]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([said, *written] if said else written)}


def _written(call: object, style: ToolFormat) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    known = function if isinstance(function, Mapping) else {}
    body = {"name": known.get("name"), style.arguments_key: _parsed(known.get("arguments"))}
    return f"{style.marker}\n{json.dumps(body, ensure_ascii=False, default=str)}\n{style.closing}"


def _text_of(content: object) -> str:
    """Return a message's text; of parts, those that are text."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _with_system(messages: list[Message], text: str) -> list[Message]:
    """Return the conversation with ``text`` at the end of its system message, or as one."""
    first = messages[0] if messages else {}
    if isinstance(first, Mapping) and first.get("role") == "system":
        return [{**first, "content": f"{_text_of(first.get('content'))}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _describe(tools: Sequence[Tool], style: ToolFormat) -> str:
    listed = "\n".join(json.dumps(tool.as_json()["function"], ensure_ascii=False) for tool in tools)
    call = f'{style.marker}\n{{"name": "<function>", "{style.arguments_key}": {{<arguments>}}}}\n{style.closing}'
    return (
        f"You can call functions. One JSON object a line describes each, with a JSON schema of its arguments:\n{listed}\n\n"
        f"To call a function, write exactly this, once for each call:\n{call}\n\n"
        f"Results come back between {_RESULT_OPEN} and {_RESULT_CLOSE}. "
        "If no function is needed, answer in plain words."
    )
