"""What a connection may do before and after a request reaches the application: :class:`ConnectionGuard`.

uvicorn bounds neither the number of connections without refusing requests on open ones, nor the size of a request's
head, nor the time a client takes to send it or to read an answer. This protocol stands between the socket and
uvicorn's and watches these four, and passes everything on.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from steelyard.serve.config import LimitsConfig


class _Cycle(Protocol):
    @property
    def response_complete(self) -> bool: ...


class HttpProtocol(Protocol):
    """What is needed of uvicorn's protocol."""

    @property
    def cycle(self) -> _Cycle | None:
        """The latest request whose head has come, if any."""
        ...

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See asyncio."""
        ...

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        ...

    def eof_received(self) -> None:
        """See asyncio."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        ...

    def pause_writing(self) -> None:
        """See asyncio."""
        ...

    def resume_writing(self) -> None:
        """See asyncio."""
        ...


class ConnectionGuard(asyncio.Protocol):
    """One connection.

    Args:
        inner: uvicorn's protocol.
        limits: what is allowed.
        guards: all open connections; this one adds and removes itself.
    """

    def __init__(self, inner: HttpProtocol, limits: LimitsConfig, guards: set[ConnectionGuard]) -> None:
        self._inner, self._limits, self._guards = inner, limits, guards
        self._transport: asyncio.Transport | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or turn it away if there are too many."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport = transport
        if len(self._guards) >= self._limits.max_connections:
            self._refuse(b"503 Service Unavailable")
            return
        self._guards.add(self)
        self._inner.connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Pass data on; end the connection if a head becomes too long."""
        if self not in self._guards:
            return
        began_in_head = self._is_in_head
        self._inner.data_received(data)
        if not self._is_in_head:
            self._stop_head_timer()
            self._head_bytes = 0
            return
        self._head_bytes = self._head_bytes + len(data) if began_in_head else 0
        if self._head_bytes > self._limits.max_header_bytes:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._head_timer is None:
            self._await_head()

    def eof_received(self) -> None:
        """Pass it on."""
        if self in self._guards:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        self._stop_stall_timer()
        if self in self._guards:
            self._guards.discard(self)
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: give it some time."""
        self._inner.pause_writing()
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._limits.stall_timeout_s, self._transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_stall_timer()
        self._inner.resume_writing()

    @property
    def _is_in_head(self) -> bool:
        """Whether the next bytes belong to a request's head."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._limits.header_timeout_s, self._refuse, b"408 Request Timeout")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _refuse(self, status: bytes) -> None:
        """Answer with nothing but a status, and close."""
        assert self._transport is not None
        self._stop_head_timer()
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()
