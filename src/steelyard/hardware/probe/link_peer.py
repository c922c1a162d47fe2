"""The other end of a link that is being measured: run as a program of its own, standard library only.

    python link_peer.py unix PATH | tcp PORT | memory NAME

It echoes messages of ``PING`` bytes until it is sent a stream, which it swallows and acknowledges (sockets), or plays
the reader of a ring of slots in shared memory.
"""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import resource_tracker, shared_memory

PING = 64
CHUNK = 1 << 20
SLOTS = 4
HEADER = 4096  # ring: bytes 0 … SLOTS−1 are full/empty flags, 64 the ping, 128 the pong, 192 the end
PING_AT, PONG_AT, END_AT = 64, 128, 192
STREAM, BYE = b"s", b"b"


def receive_exactly(connection: socket.socket, view: memoryview) -> None:
    """Fill ``view``; raise ``ConnectionError`` if the other end leaves before."""
    while view:
        count = connection.recv_into(view)
        if count == 0:
            raise ConnectionError("the other end left")
        view = view[count:]


def serve_socket(connection: socket.socket) -> None:
    """Echo pings; a message that begins with ``s`` announces a stream of as many bytes as its next eight say."""
    message, buffer = bytearray(PING), bytearray(CHUNK)
    while True:
        receive_exactly(connection, memoryview(message))
        if message[:1] == BYE:
            return
        if message[:1] == STREAM:
            left = int.from_bytes(message[1:9], "little")
            while left:
                left -= connection.recv_into(buffer, min(CHUNK, left))
        connection.sendall(message)


def serve_memory(ring: memoryview) -> None:
    """Answer pings and empty full slots until told to end."""
    sink, slot, seen = bytearray(CHUNK), 0, 0
    while not ring[END_AT]:
        if ring[PING_AT] != seen:
            seen = ring[PING_AT]
            ring[PONG_AT] = seen
        elif ring[slot]:
            start = HEADER + slot * CHUNK
            sink[:] = ring[start : start + CHUNK]
            ring[slot] = 0
            slot = (slot + 1) % SLOTS
        else:
            os.sched_yield()


def main(kind: str, address: str) -> None:
    """Connect to the end that started this process, and serve it."""
    if kind == "memory":
        memory = shared_memory.SharedMemory(name=address)
        # Whoever made it removes it; the tracker of this process must not.
        resource_tracker.unregister(f"/{memory.name.lstrip('/')}", "shared_memory")
        assert memory.buf is not None
        serve_memory(memory.buf)
        return
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(address if kind == "unix" else ("127.0.0.1", int(address)))
        if kind == "tcp":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve_socket(connection)


if __name__ == "__main__":
    main(*sys.argv[1:])
