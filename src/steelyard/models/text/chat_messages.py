"""A conversation from outside, checked and copied into plain values: :func:`plain_messages`, :func:`plain_value`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from steelyard.core.errors import PromptError
from steelyard.models.text.template_meter import CHARS_PER_NODE, ChatLimits

# What templates may see: JSON, in exactly Python's own types. Read-only for everybody but the template's own copies.
JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
Message: TypeAlias = Mapping[str, object]

MAX_DEPTH = 32
MAX_INTEGER = 1 << 64
PART_SEPARATOR = "\n"

# Roles that chat templates know; more are allowed, but only these are trusted to name a control token.
ROLES = (
    "system", "user", "assistant", "tool", "developer", "function", "model", "ipython", "environment", "observation",
    "context", "documents", "critic", "control",
)  # fmt: skip
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


class _Allowance:
    """What is left of the characters that one conversation may have."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def take(self, num_chars: int, field: str) -> None:
        self._left -= num_chars + CHARS_PER_NODE
        if self._left < 0:
            problem = f"the conversation has more than {self._limit} characters"
            raise PromptError(problem, field=field, remedy="Send fewer or shorter messages")


def plain_messages(messages: Sequence[Message], limits: ChatLimits, *, keep_parts: bool) -> list[dict[str, JsonValue]]:
    """Return a checked copy of a conversation.

    Args:
        messages: mappings with a ``role`` and a ``content``: a string, a list of ``{"type": "text", "text": …}``, or
            ``None``. Further fields may hold any JSON.
        limits: how many and how long they may be.
        keep_parts: give lists of text parts to the template as they are; otherwise join them with newlines.

    Raises:
        PromptError: naming ``messages[i].field`` if a message is malformed, or the conversation is empty or too long.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise _wrong("messages", "it is not a list of messages")
    if not messages:
        raise _wrong("messages", "it is empty")
    if len(messages) > limits.max_messages:
        raise _wrong("messages", f"{len(messages)} messages are over the limit of {limits.max_messages}")
    left = _Allowance(limits.max_message_chars)
    return [_message(message, f"messages[{i}]", left, keep_parts) for i, message in enumerate(messages)]


def plain_value(value: object, field: str, limits: ChatLimits) -> JsonValue:
    """Return a checked copy of a JSON value, such as the tools.

    Raises:
        PromptError: naming the part that is no JSON, too deep or too large.
    """
    return _plain(value, field, _Allowance(limits.max_message_chars), 0)


def _message(message: object, field: str, left: _Allowance, keep_parts: bool) -> dict[str, JsonValue]:
    if not isinstance(message, Mapping):
        raise _wrong(field, f"it is {type(message).__name__}, not an object with a role and a content")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise _wrong(f"{field}.role", f"{role!r:.40} is not a role, such as {', '.join(ROLES[:3])}")
    if message.get("content") is None and not any(message.get(key) for key in ("tool_calls", "reasoning_content")):
        raise _wrong(f"{field}.content", "it is missing")
    copied = _plain(message, field, left, 1)
    assert isinstance(copied, dict)
    if copied.get("content") is not None:
        copied["content"] = _content(copied["content"], f"{field}.content", keep_parts)
    return copied


def _content(content: JsonValue, field: str, keep_parts: bool) -> JsonValue:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(field, f"it is {type(content).__name__}, not a string or a list of text parts")
    texts = [_part_text(part, f"{field}[{i}]") for i, part in enumerate(content)]
    return content if keep_parts else PART_SEPARATOR.join(texts)


def _part_text(part: JsonValue, field: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise _wrong(field, 'only parts of the form {"type": "text", "text": …} are supported')
    text = part.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{field}.text", "it is not a string")
    return text


def _plain(value: object, field: str, left: _Allowance, depth: int) -> JsonValue:
    """Return a copy made of JSON's types alone: subclasses could bring methods that a template must not reach."""
    if depth > MAX_DEPTH:
        raise _wrong(field, f"it is nested more than {MAX_DEPTH} deep")
    left.take(len(value) if isinstance(value, str) else 0, field)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_key(k, field, left): _plain(v, f"{field}.{k!s:.40}", left, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{field}[{i}]", left, depth + 1) for i, item in enumerate(value)]
    raise _wrong(field, f"{value!r:.40} cannot be written as JSON")


def _key(key: object, field: str, left: _Allowance) -> str:
    if not isinstance(key, str):
        raise _wrong(field, f"its key {key!r:.40} is not a string")
    left.take(len(key), field)
    return str.__str__(key)


def _wrong(field: str, problem: str) -> PromptError:
    return PromptError(problem, field=field, remedy="Send a list of messages, each with a role and a content")
