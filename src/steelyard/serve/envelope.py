"""The outermost layer: every request gets an id, a line in the log, a count, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.core.clock import now_s
from steelyard.serve.errors import api_error
from steelyard.serve.identity import new_id
from steelyard.serve.keys import PRINCIPAL
from steelyard.serve.logs import FIELDS

logger = logging.getLogger("steelyard.serve.requests")

REQUEST_ID = "request_id"  # where a request's scope holds its id
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NOBODY_ASKED = 499  # nginx's word for a client that left before its answer began


class Envelope:
    """Wraps the whole application.

    Args:
        app: what lies behind.
        count: called with a request's path, as the application knows it, and the status of its answer.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; nothing is raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})[REQUEST_ID] = request_id
        answer = _Answer(send, request_id)
        began_s = now_s()
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if answer.status is None:
                await api_error(error).response()(scope, receive, answer.send)
            else:
                logger.exception("an answer broke off", extra={FIELDS: {"id": request_id}})
        status = _NOBODY_ASKED if answer.status is None else answer.status
        route = getattr(scope.get("route"), "path", "unknown")
        self._count(route, status)
        _log(scope, route, status, request_id, now_s() - began_s)


class _Answer:
    """An answer on its way out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)


def _log(scope: Scope, route: str, status: int, request_id: str, took_s: float) -> None:
    principal = scope["state"].get(PRINCIPAL)
    told = {
        "id": request_id,
        "method": scope["method"],
        "path": route,
        "status": status,
        "seconds": round(took_s, 4),
        "key": None if principal is None else principal.name,
    }
    quiet = route in ("/health", "/ping", "/metrics")
    logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={FIELDS: told})
