"""The outermost layer: every request gets an id, a line in the log, a count, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

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
_QUIET = ("/health", "/ping", "/metrics", "/dashboard/state")  # asked again and again by programs
_CLIENT_LEFT = 499  # nginx's word for a client that left before its answer began


class Envelope:
    """Wraps the whole application.

    Args:
        app: what lies behind.
        count: called with a request's path, as the application knows it, and the status of its answer.
        rate_headers: of a key's name: headers that say how it stands with its rates, on every answer to it.
    """

    def __init__(
        self, app: ASGIApp, count: Callable[[str, int], None], rate_headers: Callable[[str], Mapping[str, str]]
    ) -> None:
        self._app, self._count, self._rate_headers = app, count, rate_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; nothing is raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})[REQUEST_ID] = request_id
        answer = _Answer(scope, send, request_id, self._count, self._rate_headers)
        began_s = now_s()
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if answer.status is None:
                await api_error(error).response()(scope, receive, answer.send)
            else:
                logger.exception("an answer broke off", extra={FIELDS: {"id": request_id}})
        _log(scope, answer.status or _CLIENT_LEFT, request_id, now_s() - began_s)


class _Answer:
    """An answer on its way out."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        request_id: str,
        count: Callable[[str, int], None],
        rate_headers: Callable[[str], Mapping[str, str]],
    ) -> None:
        self._scope, self._send, self._request_id = scope, send, request_id
        self._count, self._rate_headers = count, rate_headers
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._count(_route(self._scope), message["status"])
            headers, principal = MutableHeaders(scope=message), self._scope["state"].get(PRINCIPAL)
            headers["x-request-id"] = self._request_id
            if principal is not None:
                headers.update(self._rate_headers(principal.name))
        await self._send(message)


def _route(scope: Scope) -> str:
    """Return the path as the application knows it: what clients make up must not fill the metrics."""
    return getattr(scope.get("route"), "path", "unknown")


def _log(scope: Scope, status: int, request_id: str, took_s: float) -> None:
    principal, route = scope["state"].get(PRINCIPAL), _route(scope)
    told = {
        "id": request_id,
        "method": scope["method"],
        "path": route,
        "status": status,
        "seconds": round(took_s, 4),
        "key": None if principal is None else principal.name,
    }
    logger.log(logging.DEBUG if route in _QUIET else logging.INFO, "request", extra={FIELDS: told})
