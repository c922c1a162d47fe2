"""A client of one stream on a bare socket: when each piece arrived, and nothing between it and the kernel."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from time import sleep
from typing import Any

from peerbench.child import PeerError

from servebench.servers import LOOK_S, MODEL_NAME
from steelyard.core.clock import wall_s

TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 16
END_OF_STREAM = b"data: [DONE]"


def arrivals_s(url: str, prompt: str, max_tokens: int) -> list[float]:
    """Stream a greedy completion; return when each token's event arrived, seconds of the monotonic clock.

    Raises:
        PeerError: if it does not answer with a stream, or the stream breaks off.
    """
    body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    with connect(url) as connection:
        # A control token that is left out has no text, and so no event.
        connection.sendall(request_bytes(url, {**body, "ignore_eos": True, "skip_special_tokens": False}))
        times, received = list[float](), b""
        while END_OF_STREAM not in received:
            piece = connection.recv(PIECE_BYTES)
            now_s = wall_s()
            if not piece or not (received + piece).startswith(b"HTTP/1.1 200"):
                raise PeerError(f"no stream: {(received + piece)[:200]!r}")
            num_before = received.count(b'"text":')
            received += piece
            times += [now_s] * (received.count(b'"text":') - num_before)
    return times


def first_arrival_s(url: str, prompt: str, deadline_s: float) -> float:
    """Ask as soon as the port answers, again while the server says that it is not ready; return when a token came.

    Raises:
        PeerError: if there is none by ``deadline_s``.
    """
    while wall_s() < deadline_s:
        try:
            return arrivals_s(url, prompt, 1)[0]
        except (OSError, PeerError):
            sleep(LOOK_S)
    raise PeerError("no token came")


def connect(url: str) -> socket.socket:
    """Return a connection that sends at once."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request_bytes(url: str, body: Mapping[str, Any]) -> bytes:
    """Return a request on the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
