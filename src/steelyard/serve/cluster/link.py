"""One connection between a server and a replica: whole messages in, whole messages out.

A message goes as four bytes, its length in big-endian order, and its body. Messages that are sent in one turn of the
event loop leave in one piece: an engine's step makes dozens of answers grow at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast, final

from steelyard.serve.cluster.wire import MAX_MESSAGE_BYTES, Message, Reader, WireError, encode

_HEAD = 4


@final
class Link(asyncio.Protocol):
    """A connection's end.

    Args:
        reader: of what the other end sends.
        max_bytes: a message that says to be longer ends the connection.

    Attributes:
        on_message: called with each message; a :class:`WireError` that it raises ends the connection.
        on_lost: called once when the connection has ended, with why, if it did not end in order.
    """

    def __init__(self, reader: Reader, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.on_message: Callable[[object], None] = _ignore
        self.on_lost: Callable[[Exception | None], None] = _ignore
        self.max_bytes = max_bytes
        self._reader, self._inward, self._outward = reader, bytearray(), list[bytes]()
        self._transport: asyncio.Transport | None = None
        self._cause: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Message) -> None:
        """Send a message soon; on a connection that has ended it is dropped."""
        if not self.is_open:
            return
        if not self._outward:
            asyncio.get_running_loop().call_soon(self._flush)
        body = encode(message)
        self._outward += (len(body).to_bytes(_HEAD, "big"), body)

    def close(self) -> None:
        """Send what is left and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- what asyncio calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are whole now."""
        self._inward += data
        start = 0
        try:
            while (end := self._end_of_message(start)) is not None:
                message = self._reader.decode(memoryview(self._inward)[start + _HEAD : end].toreadonly())
                start = end
                self.on_message(message)
        except WireError as error:
            self._cause = error
            self.abort()
            return
        del self._inward[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell."""
        self.on_lost(self._cause or exc)

    def _end_of_message(self, start: int) -> int | None:
        """Return where the message from ``start`` on ends; ``None`` if it is not whole."""
        body = start + _HEAD
        if len(self._inward) < body:
            return None
        length = int.from_bytes(self._inward[start:body], "big")
        if length > self.max_bytes:
            raise WireError(f"a message of {length} bytes is over the limit of {self.max_bytes}")
        return body + length if len(self._inward) >= body + length else None

    def _flush(self) -> None:
        outward, self._outward = self._outward, []
        if outward and self.is_open:
            assert self._transport is not None
            self._transport.write(b"".join(outward))


def _ignore(what: object) -> None:
    """Nobody wants to know."""
