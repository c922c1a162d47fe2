"""Errors as Anthropic's clients know them: ``{"type": "error", "error": {"type", "message"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from typing_extensions import TypedDict

_KINDS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrorBody(TypedDict):
    """What is wrong."""

    type: str
    message: str


class AnthropicError(TypedDict):
    """The whole body of an answer, or the data of an event, that is an error."""

    type: Literal["error"]
    error: AnthropicErrorBody


def anthropic_error(status: int, message: str) -> AnthropicError:
    """Return what is told of an error with this status."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
