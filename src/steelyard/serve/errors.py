"""Errors as OpenAI's clients know them: ``{"error": {"message", "type", "param", "code"}}`` with the right status.

Clients choose their exception class by the status. What is told is what our own errors tell; anything else is a bug of
ours, logged here and called an internal error there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from steelyard.core.errors import (
    EngineBusyError,
    EngineStoppedError,
    InputError,
    ResourceError,
    SteelyardError,
)

logger = logging.getLogger("steelyard.serve")

INVALID, NOT_FOUND, SERVER, UNAVAILABLE = (
    "invalid_request_error",
    "not_found_error",
    "server_error",
    "unavailable_error",
)
_MAX_MESSAGE_CHARS = 1000
_MAX_FAULTS = 1000  # to list more takes seconds
# What pydantic calls the branches of a union, in the place of a field's name.
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "none", "dict"})


class ErrorBody(TypedDict):
    """What clients read of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    """The whole body of an answer that is an error."""

    error: ErrorBody


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what is wrong and what to do, for people.
        kind: in OpenAI's words, what it calls the type.
        param: the request's field at fault.
        code: a word for programs.
        headers: of HTTP, such as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, headers

    @property
    def body(self) -> ErrorAnswer:
        """What goes into the answer."""
        message = self.message[:_MAX_MESSAGE_CHARS]
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the whole answer."""
        return JSONResponse(self.body, status_code=self.status, headers=dict(self.headers or {}))


def invalid(message: str, *, param: str | None, code: str | None = None) -> ApiError:
    """Return the error for a request's field that is wrong."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, *, retry_after_s: float = 1.0) -> ApiError:
    """Return the error for what may work later."""
    headers = {"Retry-After": _whole_seconds(retry_after_s)}
    return ApiError(503, message, kind=UNAVAILABLE, code="unavailable", headers=headers)


def too_late(message: str) -> ApiError:
    """Return the error for a request whose time was over before its answer began."""
    return ApiError(504, message, kind=UNAVAILABLE, code="timeout")


def busy(message: str, *, retry_after_s: float) -> ApiError:
    """Return the error for a client that must wait."""
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": _whole_seconds(retry_after_s)},
    )


def _whole_seconds(seconds: float) -> str:
    """Return what ``Retry-After`` says: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))


def internal() -> ApiError:
    """Return the error for a bug of ours; the log has the rest."""
    return ApiError(500, "internal error; the server's log has the details", kind=SERVER)


def api_error(error: Exception, *, retry_after_s: float = 1.0) -> ApiError:
    """Return what a client is told of any exception; bugs of ours are logged.

    Args:
        error: what was raised.
        retry_after_s: what a client is told to wait when the engine is busy.
    """
    match error:
        case ApiError():
            return error
        case EngineBusyError():
            return busy(f"{error.problem}. Try again later.", retry_after_s=retry_after_s)
        case InputError():
            return invalid(str(error), param=error.field)
        case EngineStoppedError():
            logger.error("an engine has stopped", exc_info=error)
            return unavailable("the model's engine has stopped. Try again later.")
        case ResourceError():
            logger.error("resource error: %s", type(error).__name__, exc_info=error)
            return unavailable(f"the server cannot do it now ({type(error).__name__})")
        case ValidationError() if error.error_count() > _MAX_FAULTS:
            return invalid(f"the body has {error.error_count()} faults", param=None)
        case RequestValidationError() | ValidationError():
            return _validation_error(error.errors())
        case HTTPException():
            return _http_error(error)
        case _:
            logger.error("internal error", exc_info=error)
            return internal()


def install_error_answers(app: FastAPI, *, retry_after_s: float) -> None:
    """Let ``app`` answer every exception in this manner."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        del request
        return api_error(error, retry_after_s=retry_after_s).response()

    for kind in (ApiError, SteelyardError, ValidationError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _validation_error(problems: Sequence[Any]) -> ApiError:
    """Return the error for the first field that pydantic found wrong."""
    first: ErrorDetails = problems[0]
    if first["type"] == "json_invalid":
        return invalid("the body is not valid JSON in UTF-8", param=None, code="invalid_json")
    param = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return invalid(f"{param}: this field is not known here. Leave it out.", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return invalid(f"{param}: it is missing. Give it.", param=param, code="missing_required_parameter")
    return invalid(f"{param}: {first['msg']}." if param else f"{first['msg']}.", param=param or None)


def _path(location: tuple[int | str, ...]) -> str:
    """Return a field's place as ``messages[0].content``; a union's own names are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in _TYPE_NAMES:
            text += f".{part}" if text else part
    return text


def _http_error(error: HTTPException) -> ApiError:
    words = {404: "there is no such address", 405: "this address does not take this method"}
    kind = NOT_FOUND if error.status_code == 404 else INVALID
    message = words.get(error.status_code, "the request could not be read")
    return ApiError(error.status_code, message, kind=kind, headers=error.headers)
