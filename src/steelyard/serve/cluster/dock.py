"""Where replicas connect to their server: :class:`Dock`.

A Unix socket in a directory that only this user can enter; where there are none, or replicas come from other machines,
a TCP port. Whoever connects must greet within seconds with a secret that one replica was given, and is told nothing
before.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from typing import final

from steelyard.serve.cluster import wire
from steelyard.serve.cluster.link import Link

logger = logging.getLogger("steelyard.serve")

_GREETING_S = 10.0


@final
class Dock:
    """Listens for the replicas that are expected.

    Args:
        address: where, as workers are told it.
        directory: of the socket, to be removed in the end.
    """

    def __init__(self, address: str, directory: Path | None) -> None:
        self.address = address
        self._directory = directory
        self._server: asyncio.Server | None = None
        self._expected: dict[str, tuple[str, asyncio.Future[Link]]] = {}

    @classmethod
    async def open(cls, host: str | None = None) -> Dock:
        """Listen on a Unix socket, or on a free port of ``host``."""
        if host is None and hasattr(socket, "AF_UNIX"):
            directory = Path(tempfile.mkdtemp(prefix="steelyard-"))  # made for this user alone
            path = directory / "replicas"
            dock = cls(f"unix:{path}", directory)
            dock._server = await asyncio.get_running_loop().create_unix_server(dock._greet, path)
            return dock
        host = host or "127.0.0.1"
        server = await asyncio.get_running_loop().create_server(lambda: dock._greet(), host, 0)
        dock = cls(f"tcp:{host}:{server.sockets[0].getsockname()[1]}", None)
        dock._server = server
        return dock

    def expect(self, replica: str) -> tuple[str, asyncio.Future[Link]]:
        """Return the secret for a replica that will come, and its link once it has."""
        arrival: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._expected[replica] = secrets.token_hex(32), arrival
        return self._expected[replica]

    def forget(self, replica: str) -> None:
        """Expect a replica no more."""
        self._expected.pop(replica, None)

    def close(self) -> None:
        """Listen no more; links stay."""
        if self._server is not None:
            self._server.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _greet(self) -> Link:
        """Return the end of a connection that has just been made."""
        link = Link(wire.Reader(wire.FromReplica), wire.MAX_HELLO_BYTES)
        timer = asyncio.get_running_loop().call_later(_GREETING_S, link.abort)

        def welcome(message: object) -> None:
            timer.cancel()
            arrival = self._arrival(message)
            link.max_bytes = wire.MAX_MESSAGE_BYTES
            arrival.set_result(link)

        def gone(cause: Exception | None) -> None:
            timer.cancel()
            logger.warning("a connection to the socket of replicas ended without a greeting: %s", cause)

        link.on_message, link.on_lost = welcome, gone
        return link

    def _arrival(self, message: object) -> asyncio.Future[Link]:
        """Return who waits for the one who says ``message``.

        Raises:
            WireError: if it is nobody that is expected.
        """
        if not isinstance(message, wire.Hello):
            raise wire.WireError("it does not begin with a greeting")
        if message.protocol != wire.PROTOCOL:
            raise wire.WireError(f"it speaks {message.protocol!r:.50}, not {wire.PROTOCOL!r}")
        secret, arrival = self._expected.get(message.replica, ("", None))
        if arrival is None or arrival.done() or not hmac.compare_digest(secret.encode(), message.secret.encode()):
            raise wire.WireError("it is not expected")
        self.forget(message.replica)
        return arrival
