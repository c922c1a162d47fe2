"""Events on the wire and the comments that keep a stream alive, on the virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from steelyard.serve.sse import DONE, PING, ServerEvent, event_stream
from steelyard.sim.virtual import run_virtual


def test_events_are_encoded():
    assert ServerEvent({"a": "ü\n"}).encode() == 'data: {"a":"ü\\n"}\n\n'.encode()
    assert ServerEvent({}, event="ping").encode() == b"event: ping\ndata: {}\n\n"
    assert DONE.encode() == b"data: [DONE]\n\n"


def bodies_of(silences_s: list[float], slow_s: float = 0.0) -> list[Any]:
    """Write an event after each silence, to a client that takes ``slow_s`` for each; return what it got."""
    got: list[Any] = []
    at_work = 0

    async def send(message: Any) -> None:
        nonlocal at_work
        assert at_work == 0, "two pieces at once"
        at_work += 1
        await asyncio.sleep(slow_s)
        at_work -= 1
        got.append(message)

    async def main() -> None:
        async with event_stream(send, ping_interval_s=10.0) as writer:
            for number, silence_s in enumerate(silences_s):
                await asyncio.sleep(silence_s)
                await writer.write(ServerEvent(number))

    run_virtual(main())
    assert got[0]["status"] == 200
    assert [message["more_body"] for message in got[1:]] == [True] * (len(got) - 2) + [False]
    return [message["body"] for message in got[1:-1]]


@pytest.mark.parametrize("slow_s", [0.0, 1.0])
def test_a_silent_stream_gets_comments(slow_s):
    bodies = bodies_of([9, 25, 1], slow_s)
    assert bodies == [b"data: 0\n\n", PING, PING, b"data: 1\n\n", b"data: 2\n\n"]


def test_a_busy_stream_gets_none():
    assert PING not in bodies_of([4.0] * 10)


def test_an_error_leaves_the_stream_open():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        async with event_stream(send, ping_interval_s=1.0):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_virtual(main())
    assert len(sent) == 1
