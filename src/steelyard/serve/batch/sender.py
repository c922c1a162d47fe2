"""How a line gets its answer: the way of every request, through the whole application, but without a socket."""

from __future__ import annotations

import json
from hashlib import sha256

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.core.clock import sleep_s
from steelyard.serve.batch.types import ENDPOINTS, Answer, Batch, Line
from steelyard.serve.errors import invalid
from steelyard.serve.keys import BATCH_TENANT, PRINCIPAL, Principal

# Behind whatever anybody asks for: priorities of requests are below 2^31.
_LATENESS = 1 << 32
_TRY_LATER = (429, 503)


class LineSender:
    """Sends lines to the application, as a tenant of its own per owner, behind all requests of people.

    Args:
        app: the application with all its layers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def answer(self, batch: Batch, line: Line) -> Answer:
        """Return what the application answers, trying again for as long as it says that it has no room."""
        transport = httpx.ASGITransport(_trusting(self._app, line_principal(batch)))
        try:
            content = request_body(batch, line)
        except ValueError as error:
            refusal = invalid(str(error), param="stream")
            return Answer(number=line.number, status=400, request_id="", body=json.dumps(refusal.body))
        while True:
            response = await _sent(transport, batch.endpoint, content)
            if response.status_code not in _TRY_LATER:
                request_id = response.headers["x-request-id"]
                return Answer(
                    number=line.number, status=response.status_code, request_id=request_id, body=response.text
                )
            await sleep_s(float(response.headers.get("retry-after", "1")))


def line_principal(batch: Batch) -> Principal:
    """Return who a batch's lines come from: a tenant beside its owner, with the owner's cached prefixes."""
    return Principal(name=BATCH_TENANT + batch.owner, cache_salt=batch.cache_salt, lateness=_LATENESS)


def request_body(batch: Batch, line: Line) -> bytes:
    """Return what is sent: a line that is drawn by chance and has no seed gets one of its ``custom_id``.

    So it comes to the same whenever it is computed, and beside whatever.

    Raises:
        ValueError: if it asks for a stream.
    """
    body = json.loads(line.body)
    if body.get("stream"):
        raise ValueError("stream: a line of a batch has no streams. Leave it out.")
    if ENDPOINTS[batch.endpoint].samples and body.get("seed") is None:
        body["seed"] = int.from_bytes(sha256(line.custom_id.encode()).digest()[:4], "big")
    return json.dumps(body).encode()


async def _sent(transport: httpx.ASGITransport, path: str, content: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    request = httpx.Request("POST", "http://batch" + path, content=content, headers=headers)
    response = await transport.handle_async_request(request)
    await response.aread()
    return response


def _trusting(app: ASGIApp, principal: Principal) -> ASGIApp:
    """Return ``app`` for requests of ``principal``, who needs no key."""

    async def trusted(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[PRINCIPAL] = principal
        await app(scope, receive, send)

    return trusted
