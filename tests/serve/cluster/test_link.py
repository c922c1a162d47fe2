"""A link over a real socket: pieces, sizes, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.serve.cluster import wire
from steelyard.serve.cluster.link import Link

MESSAGES = [wire.Ping(), wire.Cancel(3), wire.Shares({"ann": 1.5}), wire.Close()]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


class End:
    """A link and what came of it."""

    def __init__(self, **options: Any) -> None:
        self.link = Link(wire.Reader(wire.FromServer), **options)
        self.came: list[object] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.link.on_message, self.link.on_lost = self.came.append, self.lost.set_result


def with_end(work: Callable[[End, socket.socket], Awaitable[None]], **options: Any) -> None:
    """Run ``work`` with a link and the raw socket at its other end."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        end = End(**options)
        await asyncio.get_running_loop().create_unix_connection(lambda: end.link, sock=ours)
        await asyncio.wait_for(work(end, theirs), 10)
        theirs.close()

    asyncio.run(main())


async def say(theirs: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(theirs, data)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_messages_are_whole_however_they_are_cut(cuts: list[int]):
    data = b"".join(framed(wire.encode(message)) for message in MESSAGES)

    async def work(end: End, theirs: socket.socket) -> None:
        rest = data
        for cut in cuts:
            await say(theirs, rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0)
        await say(theirs, rest)
        await until(lambda: len(end.came) == len(MESSAGES))
        assert end.came == MESSAGES

    with_end(work)


def test_what_is_sent_in_one_turn_leaves_in_one_piece_and_in_order():
    async def work(end: End, theirs: socket.socket) -> None:
        for message in MESSAGES:
            end.link.send(message)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(theirs, 1 << 16) == b"".join(framed(wire.encode(one)) for one in MESSAGES)
        end.link.send(wire.Ping())
        end.link.close()
        assert await loop.sock_recv(theirs, 1 << 16) == framed(wire.encode(wire.Ping()))
        assert await loop.sock_recv(theirs, 1) == b""
        assert await end.lost is None
        assert not end.link.is_open
        end.link.send(wire.Ping())  # dropped

    with_end(work)


def test_a_message_that_says_to_be_too_long_ends_the_connection_before_it_is_there():
    async def work(end: End, theirs: socket.socket) -> None:
        await say(theirs, framed(wire.encode(wire.Ping())) + (101).to_bytes(4, "big"))
        cause = await end.lost
        assert isinstance(cause, wire.WireError)
        assert "101 bytes" in str(cause)
        assert end.came == [wire.Ping()]

    with_end(work, max_bytes=100)


def test_what_is_no_message_ends_the_connection():
    for body in (b"", b"\xff", b"\x93\xa6Cancel\xa1x", b"\x80\x04]q\x00."):

        async def work(end: End, theirs: socket.socket, body: bytes = body) -> None:
            await say(theirs, framed(body))
            assert isinstance(await end.lost, wire.WireError)
            assert not end.came

        with_end(work)


def test_an_end_in_the_middle_of_a_message_is_an_end():
    async def work(end: End, theirs: socket.socket) -> None:
        await say(theirs, (50).to_bytes(4, "big") + b"abc")
        theirs.close()
        assert await end.lost is None
        assert not end.came

    with_end(work)
