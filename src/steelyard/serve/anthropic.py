"""The outermost layer of Anthropic's addresses: whatever went wrong behind it is told in their words."""

from __future__ import annotations

import json

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.serve.protocol.anthropic_errors import anthropic_error
from steelyard.serve.sse import to_json

_PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})


class AnthropicAnswers:
    """Rewrites the bodies of errors, which are short, and repeats the request's id where Anthropic's client looks.

    Args:
        app: what lies behind, with errors in OpenAI's form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_ours = scope["type"] == "http" and scope["path"] in _PATHS
        await self._app(scope, receive, _Answer(send).send if is_ours else send)


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None  # of an error, until its body is there
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["request-id"] = headers.get("x-request-id", "")
            if message["status"] >= 400 and headers.get("content-type") == "application/json":  # CORS answers in text
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._send_error(self._start)

    async def _send_error(self, start: Message) -> None:
        told = json.loads(self._body)["error"]["message"]
        body = to_json(anthropic_error(start["status"], told)).encode()
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
