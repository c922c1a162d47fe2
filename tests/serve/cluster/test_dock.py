"""Who may come to the socket of replicas: those that are expected, once each, with their secret."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from steelyard.serve.cluster import wire
from steelyard.serve.cluster.dock import Dock
from steelyard.serve.cluster.link import Link


def with_dock(work: Callable[[Dock], Awaitable[None]], host: str | None = None) -> None:
    async def main() -> None:
        dock = await Dock.open(host)
        try:
            await asyncio.wait_for(work(dock), 10)
        finally:
            dock.close()

    asyncio.run(main())


async def come(dock: Dock, *messages: wire.Message) -> tuple[Link, asyncio.Future[Exception | None]]:
    """Connect and say something; the future is done when the other end has hung up."""
    loop = asyncio.get_running_loop()
    link, lost = Link(wire.Reader(wire.FromServer)), loop.create_future()
    link.on_lost = lost.set_result
    kind, _, where = dock.address.partition(":")
    if kind == "unix":
        await loop.create_unix_connection(lambda: link, where)
    else:
        host, _, port = where.rpartition(":")
        await loop.create_connection(lambda: link, host, int(port))
    for message in messages:
        link.send(message)
    return link, lost


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_who_is_expected_comes_once(host: str | None):
    async def work(dock: Dock) -> None:
        secret, arrival = dock.expect("a")
        link, _ = await come(dock, wire.Hello(wire.PROTOCOL, "a", secret))
        here = await arrival
        said: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        here.on_message = said.set_result
        link.send(wire.Pong(None, 0.0))
        assert await said == wire.Pong(None, 0.0)
        _, lost = await come(dock, wire.Hello(wire.PROTOCOL, "a", secret))
        await lost
        assert here.is_open

    with_dock(work, host)


@pytest.mark.parametrize(
    "message",
    [
        wire.Hello(wire.PROTOCOL, "a", "guessed"),
        wire.Hello(wire.PROTOCOL, "a", "é"),
        wire.Hello(wire.PROTOCOL, "b", ""),
        wire.Hello("steelyard 0.0.1, 0", "a", ""),
        wire.Hello(wire.PROTOCOL, "a", "x" * 5000),
        wire.Pong(None, 0.0),
        wire.Ping(),
    ],
)
def test_others_are_sent_away(message: wire.Message):
    async def work(dock: Dock) -> None:
        _, arrival = dock.expect("a")
        _, lost = await come(dock, message)
        await lost
        assert not arrival.done()

    with_dock(work)


def test_who_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steelyard.serve.cluster.dock._GREETING_S", 0.01)

    async def work(dock: Dock) -> None:
        _, lost = await come(dock)
        await lost

    with_dock(work)


def test_who_is_forgotten_comes_too_late():
    async def work(dock: Dock) -> None:
        secret, arrival = dock.expect("a")
        dock.forget("a")
        _, lost = await come(dock, wire.Hello(wire.PROTOCOL, "a", secret))
        await lost
        assert not arrival.done()

    with_dock(work)


def test_the_socket_lies_where_this_user_alone_can_go_and_goes_away():
    async def work(dock: Dock) -> None:
        path = Path(dock.address.removeprefix("unix:"))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        dock.close()
        assert not path.parent.exists()

    with_dock(work)
