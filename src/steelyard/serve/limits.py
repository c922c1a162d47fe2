"""Bounds on a request's head and body, as a layer of ASGI around the application: :class:`RequestLimits`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.core.clock import now_s
from steelyard.serve.config import LimitsConfig
from steelyard.serve.errors import ApiError

# What is left unread of a request that is refused must not be taken for the next one.
_CLOSE = {"Connection": "close"}
FILES_PATH = "/v1/files"


class RequestLimits:
    """Refuses heads and bodies that are too long, and bodies that come too slowly.

    Args:
        app: what lies behind.
        limits: what is allowed.
        max_file_bytes: size of a body that brings a file, in the place of ``limits.max_body_bytes``.
    """

    def __init__(self, app: ASGIApp, limits: LimitsConfig, max_file_bytes: int) -> None:
        self._app, self._limits = app, limits
        self._for_files = replace(limits, max_body_bytes=max_file_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with a ``receive`` that raises :class:`ApiError` when the body is too much."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._for_files if scope["path"] == FILES_PATH else self._limits
        refusal = _head_refusal(scope, limits)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, _Body(receive, limits).receive, send)


def _head_refusal(scope: Scope, limits: LimitsConfig) -> ApiError | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = len(scope["path"]) + len(scope["query_string"]) + sum(len(n) + len(v) + 4 for n, v in headers)
    if size > limits.max_header_bytes:
        return ApiError(431, "the headers are too long", headers=_CLOSE)
    length = dict(headers).get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > limits.max_body_bytes:
        return _too_long(limits)
    return None


class _Body:
    """A request's body on its way in."""

    def __init__(self, receive: Receive, limits: LimitsConfig) -> None:
        self._receive, self._limits = receive, limits
        self._num_bytes, self._is_whole = 0, False
        self._deadline_s = now_s() + limits.body_timeout_s

    async def receive(self) -> Message:
        """Return the next piece; once the body is whole, whatever comes."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline_s - now_s()):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the request's body came too slowly", code="timeout", headers=_CLOSE) from None
        self._num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._num_bytes > self._limits.max_body_bytes:
            raise _too_long(self._limits)
        return message


def _too_long(limits: LimitsConfig) -> ApiError:
    message = f"the request's body is longer than {limits.max_body_bytes} bytes"
    return ApiError(413, message, code="request_too_large", headers=_CLOSE)
