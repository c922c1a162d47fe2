"""Server-sent events: what is streamed, and the writer that keeps a silent stream alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json as _to_json
from starlette.types import Send

from steelyard.core.clock import now_s, sleep_s

PING = b": ping\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event.

    Attributes:
        data: a JSON value, or text that goes out as it is.
        event: its name, where the dialect has names.
    """

    data: Any
    event: str | None = None

    def encode(self) -> bytes:
        """Return the bytes on the wire."""
        text = self.data if isinstance(self.data, str) else to_json(self.data)
        name = "" if self.event is None else f"event: {self.event}\n"
        return f"{name}data: {text}\n\n".encode()


DONE = ServerEvent("[DONE]")


def to_json(value: Any) -> str:
    """Return compact JSON, characters as they are; NaN and infinities, which JSON has not, become ``null``."""
    return _to_json(value, inf_nan_mode="null").decode()


class EventWriter:
    """Writes events to one client, a comment when there was none for a while.

    A client that reads slowly makes :meth:`write` wait, and so whoever produces events: nothing piles up here.

    Args:
        send: ASGI's.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._last_s = now_s()

    async def write(self, event: ServerEvent) -> None:
        """Write one event; returns when the client has taken what came before, but for a bounded buffer."""
        async with self._turn:
            await self._write(event.encode())

    async def ping(self, interval_s: float) -> None:
        """Write a comment whenever nothing was written for ``interval_s``; runs until it is cancelled."""
        while True:
            async with self._turn:
                if now_s() - self._last_s >= interval_s:
                    await self._write(PING)
            await sleep_s(interval_s - (now_s() - self._last_s))

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._last_s = now_s()


@asynccontextmanager
async def event_stream(send: Send, *, ping_interval_s: float) -> AsyncIterator[EventWriter]:
    """Begin a stream with status 200, and end it when the block is left without an exception."""
    await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    writer = EventWriter(send)
    pings = asyncio.get_running_loop().create_task(writer.ping(ping_interval_s))
    try:
        yield writer
    finally:
        pings.cancel()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
