"""Connections that misbehave, on a server whose model never comes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest
from live_server import LiveServer, NeverLoading, live_server, wait_until

from steelyard.serve.config import AccessConfig, LimitsConfig, ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.guard import ConnectionGuard
from steelyard.sim.virtual import run_virtual

KEY = "a-long-secret"
LIMITS = LimitsConfig(
    max_header_bytes=2000, max_connections=12, header_timeout_s=0.3, body_timeout_s=0.3, stall_timeout_s=0.3
)


@pytest.fixture(scope="module")
def closed() -> Iterator[LiveServer]:
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("slow",)),),
        listen=ListenConfig(port=0, drain_timeout_s=1.0, timeout_keep_alive_s=0.3),
        access=AccessConfig(api_keys=(KEY,)),
        limits=LIMITS,
    )
    with live_server(config, NeverLoading({"slow": 1}), wait_for_model=False) as server:
        yield server


def connect(live: LiveServer) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", live.port))
    raw.settimeout(20)
    return raw


def everything(raw: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    while piece := raw.recv(65536):
        received += piece
    return received


def test_health_is_503_while_loading(closed):
    response = httpx.get(closed.url + "/health")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"
    assert httpx.get(closed.url + "/ping").status_code == 200
    models = httpx.get(closed.url + "/v1/models", headers={"X-API-Key": KEY}).json()
    assert models["data"][0]["state"] == "loading"
    assert models["data"][0]["max_model_len"] is None


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_timed_out(closed, sent):
    with connect(closed) as raw:
        raw.sendall(sent)
        assert everything(raw).startswith(b"HTTP/1.1 408 ")


def test_the_second_head_on_a_connection_is_timed_out_too(closed):
    with connect(closed) as raw:
        raw.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /ping HTTP/1.1\r\nHost")
        assert everything(raw).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed(closed):
    with connect(closed) as raw:
        raw.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert everything(raw).count(b"HTTP/1.1 ") == 1


def test_a_head_without_end_is_refused(closed):
    with connect(closed) as raw:
        raw.sendall(b"GET /ping HTTP/1.1\r\nX: " + b"x" * (LIMITS.max_header_bytes - 100))
        raw.sendall(b"x" * 100)
        assert everything(raw).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_does_not_come_is_timed_out(closed):
    head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    with connect(closed) as raw:
        raw.sendall(head.encode() + b'Content-Length: 100\r\n\r\n{"')
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"timeout"' in answer


@pytest.mark.parametrize("where", ["head", "body"])
def test_who_dribbles_is_timed_out_all_the_same(closed, where):
    """A byte now and then does not buy more time."""
    head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    body = b"" if where == "head" else b"Content-Length: 1000\r\n\r\n"
    with connect(closed) as raw:
        raw.sendall(head.encode() + body)
        raw.settimeout(0.05)
        answer = b""
        for _ in range(400):
            try:
                raw.sendall(b"x")
                answer += raw.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if b"\r\n\r\n" in answer:
                break
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_what_is_no_http_is_refused(closed):
    for sent in (b"\x16\x03\x01\x02\x00\x01\xfc", b"nonsense\r\n\r\n", b"GET \xff HTTP/1.1\r\n\r\n"):
        with connect(closed) as raw:
            raw.sendall(sent)
            assert everything(raw).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))


def test_too_many_connections_are_turned_away_and_the_others_served(closed):
    held = [connect(closed) for _ in range(LIMITS.max_connections)]
    try:
        wait_until(lambda: closed.on_loop(lambda: len(closed.server.server_state.connections)) >= len(held))
        with connect(closed) as raw:
            assert everything(raw).startswith(b"HTTP/1.1 503 ")
    finally:
        for raw in held:
            raw.close()
    wait_until(lambda: closed.on_loop(lambda: not closed.server.server_state.connections))
    assert httpx.get(closed.url + "/ping").status_code == 200


class Wire:
    """A transport that remembers how it was ended."""

    def __init__(self) -> None:
        self.written, self.ends = b"", []

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")

    def is_closing(self) -> bool:
        return bool(self.ends)


class Inner:
    """What stands for uvicorn's protocol: remembers what it was told, and is always in a head."""

    cycle = None

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str):
        return lambda *arguments: self.told.append(name)


def test_who_does_not_read_is_cut_off_and_who_reads_again_is_not():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for reads_again in (True, False):
            guards: set[ConnectionGuard] = set()
            guard, wire = ConnectionGuard(Inner(), LimitsConfig(header_timeout_s=1000), guards), Wire()
            guard.connection_made(wire)
            guard.pause_writing()
            if reads_again:
                loop.call_later(59.0, guard.resume_writing)
            await asyncio.sleep(61.0)
            assert wire.ends == ([] if reads_again else ["aborted"])
            guard.connection_lost(None)
            assert not guards

    run_virtual(main())


def test_what_is_passed_on():
    async def main() -> None:
        inner, wire = Inner(), Wire()
        guard = ConnectionGuard(inner, LimitsConfig(), set())
        guard.connection_made(wire)
        guard.data_received(b"G")
        guard.pause_writing()
        guard.resume_writing()
        guard.eof_received()
        guard.connection_lost(None)
        await asyncio.sleep(1000)
        assert inner.told == [
            "connection_made", "data_received", "pause_writing", "resume_writing", "eof_received", "connection_lost",
        ]  # fmt: skip
        assert wire.ends == []

    run_virtual(main())


def test_a_connection_turned_away_hears_nothing_more():
    async def main() -> None:
        inner, wire = Inner(), Wire()
        guard = ConnectionGuard(inner, LimitsConfig(max_connections=0), set())
        guard.connection_made(wire)
        guard.data_received(b"GET / HTTP/1.1\r\n\r\n")
        guard.eof_received()
        guard.connection_lost(None)
        assert wire.written.startswith(b"HTTP/1.1 503 ")
        assert (inner.told, wire.ends) == ([], ["closed"])

    run_virtual(main())
