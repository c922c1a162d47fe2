"""Links between two processes of this machine: TCP over loopback, a Unix socket, shared memory.

Latency is half of a round trip of 64 bytes; bandwidth is a stream of 1 MiB pieces, both ends copying. Both ends are
Python, whose share is some microseconds a message.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path

from steelyard.core.clock import wall_s
from steelyard.hardware.probe import link_peer
from steelyard.hardware.probe.link_peer import CHUNK, END_AT, HEADER, PING, PING_AT, PONG_AT, SLOTS
from steelyard.hardware.probe.reading import Reading, Scale, Timing, Unit, best_of

SUBJECT = "links"
KINDS = ("tcp", "unix", "memory")
_TIMEOUT_S = 30.0
_PINGS = 50
_STREAM_CHUNKS = 32
_SPINS = 200  # looks at a flag before others get the core


def measure(scale: Scale) -> Iterator[Reading]:
    """Yield latency and bandwidth of each kind of link that this system has."""
    for kind in KINDS:
        if kind == "memory":
            if hasattr(os, "sched_yield"):
                yield from _memory_readings(scale)
        elif kind == "tcp" or hasattr(socket, "AF_UNIX"):
            yield from _socket_readings(kind, scale)


def _socket_readings(kind: str, scale: Scale) -> Iterator[Reading]:
    with _connected(kind) as connection:
        message = bytearray(PING)

        def ping() -> None:
            for _ in range(_PINGS):
                connection.sendall(message)
                link_peer.receive_exactly(connection, memoryview(message))

        def stream() -> None:
            num_bytes = _STREAM_CHUNKS * CHUNK
            head = link_peer.STREAM + num_bytes.to_bytes(8, "little")
            connection.sendall(head.ljust(PING, b"\0"))
            for _ in range(_STREAM_CHUNKS):
                connection.sendall(data)
            link_peer.receive_exactly(connection, memoryview(bytearray(PING)))

        data = bytes(CHUNK)
        yield from _readings(kind, scale, ping, stream)
        connection.sendall(link_peer.BYE.ljust(PING, b"\0"))


@contextmanager
def _connected(kind: str) -> Iterator[socket.socket]:
    """Start the other end and give this one; it is gone in the end."""
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with tempfile.TemporaryDirectory(prefix="steelyard-") as folder, socket.socket(family) as listener:
        listener.bind(str(Path(folder) / "link") if kind == "unix" else ("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(_TIMEOUT_S)
        name = listener.getsockname()
        with _peer(kind, name if kind == "unix" else str(name[1])):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_TIMEOUT_S)
                if kind == "tcp":
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield connection


def _memory_readings(scale: Scale) -> Iterator[Reading]:
    memory = shared_memory.SharedMemory(create=True, size=HEADER + SLOTS * CHUNK)
    try:
        assert memory.buf is not None
        with _peer("memory", memory.name) as child:
            yield from _readings("memory", scale, *_memory_work(memory.buf, child))
            memory.buf[END_AT] = 1
    finally:
        memory.close()
        memory.unlink()


def _memory_work(ring: memoryview, child: subprocess.Popen[bytes]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the two things to time: pings, and a stream through the ring's slots."""
    data, slot = bytes(CHUNK), 0

    def wait_until(ready: Callable[[], bool]) -> None:
        end_s = wall_s() + _TIMEOUT_S
        while not ready():
            os.sched_yield()
            if wall_s() > end_s or child.poll() is not None:
                raise ConnectionError("the other end left")

    def ping() -> None:
        for _ in range(_PINGS):
            number = (ring[PING_AT] + 1) % 256
            ring[PING_AT] = number
            spins = 0
            while ring[PONG_AT] != number:
                spins += 1
                if spins % _SPINS == 0:
                    os.sched_yield()
                    wait_until(lambda: ring[PONG_AT] == number)  # noqa: B023 - called at once

    def stream() -> None:
        nonlocal slot
        for _ in range(_STREAM_CHUNKS):
            here = slot
            wait_until(lambda: not ring[here])  # noqa: B023 - called at once
            start = HEADER + slot * CHUNK
            ring[start : start + CHUNK] = data
            ring[slot] = 1
            slot = (slot + 1) % SLOTS
        wait_until(lambda: not any(ring[:SLOTS]))

    wait_until(lambda: _answers(ring))
    return ping, stream


def _answers(ring: memoryview) -> bool:
    """Whether the other end has begun to answer."""
    ring[PING_AT] = 1
    return ring[PONG_AT] == 1


def _readings(kind: str, scale: Scale, ping: Callable[[], None], stream: Callable[[], None]) -> Iterator[Reading]:
    def reading(timing: Timing, value: float, unit: Unit, size_bytes: int) -> Reading:
        return Reading(subject=SUBJECT, name=kind, value=value, unit=unit, spread=timing.spread, size_bytes=size_bytes)

    trips = best_of(ping, scale.budget_s)
    yield reading(trips, trips.best_s / _PINGS / 2, Unit.SECONDS, PING)
    stream_time = best_of(stream, scale.budget_s)
    yield reading(stream_time, _STREAM_CHUNKS * CHUNK / stream_time.best_s, Unit.BYTES_PER_S, CHUNK)


@contextmanager
def _peer(kind: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-I", link_peer.__file__, kind, address], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield child
        child.wait(timeout=_TIMEOUT_S)
    finally:
        child.kill()
        child.wait()
