"""Real servers on localhost, in threads of the test process."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx

from steelyard.core.clock import wall_s
from steelyard.engine.engine import Engine
from steelyard.serve.config import ModelSpec, ServeConfig
from steelyard.serve.llm import ServedLLM
from steelyard.serve.pool import ModelSource
from steelyard.serve.server import Server
from steelyard.serve.service import Service

T = TypeVar("T")
PATIENCE_S = 30.0
KEYS = {"ann": "secret-of-ann", "bob": "secret-of-bob"}


@dataclass(frozen=True)
class LiveServer:
    """A server that runs."""

    service: Service
    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on_loop(self, function: Callable[[], T]) -> T:
        """Call ``function`` on the server's event loop."""

        async def call() -> T:
            return function()

        assert self.server._loop is not None
        return asyncio.run_coroutine_threadsafe(call(), self.server._loop).result(PATIENCE_S)

    @property
    def engine(self) -> Engine:
        """The first model's engine, of this process."""
        llm = self.service.pool.models[0].llm
        assert llm is not None
        return cast(Engine, llm.start())

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds`` on the server's loop."""
        wait_until(lambda: self.on_loop(holds))


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until ``holds``; fail if it takes very long."""
    deadline, pause = wall_s() + PATIENCE_S, threading.Event()
    while not holds():
        assert wall_s() < deadline, "waited in vain"
        pause.wait(0.01)


@contextmanager
def live_server(config: ServeConfig, source: ModelSource, *, wait_for_model: bool = True) -> Iterator[LiveServer]:
    """Run a server on a free port (``config`` must say port 0) and end it in the end."""
    service = Service(config, source)
    server = Server(service, config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    live = LiveServer(service, server, server.servers[0].sockets[0].getsockname()[1])
    try:
        if wait_for_model:
            wait_until(lambda: httpx.get(live.url + "/health").status_code == 200)
        yield live
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def metric(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    samples = re.findall(rf"^{re.escape(name)}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(value) for told, value in samples if all(label in told for label in wanted))


class FakeModels:
    """A :class:`ModelSource` of models that do nothing; each takes as many bytes as ``sizes`` says.

    ``gates`` hold models back until their event is set, ``broken`` ones raise.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.broken: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.log: list[str] = []

    async def need_bytes(self, spec: ModelSpec) -> int:
        return self.sizes[spec.names[0]]

    async def load(self, spec: ModelSpec) -> ServedLLM:
        name = spec.names[0]
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.broken:
            raise self.broken[name]
        self.log.append(f"load {name}")
        return cast(ServedLLM, _FakeLLM(name, self.sizes[name]))

    async def put_away(self, llm: ServedLLM) -> None:
        self.log.append(f"put away {cast(Any, llm).name}")


@dataclass(frozen=True)
class _FakeLLM:
    name: str
    held_bytes: int
    is_up = True

    @property
    def parts(self) -> _FakeLLM:
        return self


class NeverLoading(FakeModels):
    """A source whose models never come."""

    async def load(self, spec: ModelSpec) -> ServedLLM:
        await asyncio.Event().wait()
        raise AssertionError
