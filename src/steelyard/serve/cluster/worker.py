"""The process of a replica: ``python -m steelyard.serve.cluster.worker``, started by a server and by nobody else.

It reads one line from its standard input (:class:`WorkerStart`), connects to the server, loads the model it is told to
and works on requests until it is told to end or the connection ends. So no replica outlives its server. It does not
heed SIGINT and SIGTERM, which a terminal or a service manager may send to all processes at once: the server drains
first and then says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Protocol, final

import msgspec

from steelyard.core.clock import now_s
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.engine import Engine
from steelyard.engine.view import StepRecord
from steelyard.fleet.engine import ReplicaStatus
from steelyard.fleet.replica import EngineReplica
from steelyard.policies.schedule.types import Schedule
from steelyard.serve.cluster import wire
from steelyard.serve.cluster.link import Link
from steelyard.serve.config import ObserveConfig
from steelyard.serve.logs import configure_logs

logger = logging.getLogger("steelyard.serve")

_PR_SET_PDEATHSIG = 1


class WorkerStart(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told before it is connected.

    Attributes:
        address: ``unix:PATH`` or ``tcp:HOST:PORT``.
        replica: what it is called.
        secret: by which the server knows it.
        cores: that it may run on; none for all.
        observe: how it writes its log.
    """

    address: str
    replica: str
    secret: str
    cores: tuple[int, ...] = ()
    observe: ObserveConfig = ObserveConfig()


class HostedLLM(Protocol):
    """What a worker needs of a model; :class:`AsyncLLM` is one."""

    def start(self) -> Engine:
        """Return the engine."""

    def set_shares(self, shares: dict[str, float]) -> None:
        """Say what each tenant is due."""

    async def prepare(self, params: SamplingParams) -> None:
        """Compile a constraint."""

    async def stopped(self) -> BaseException | None:
        """Return what the engine died of."""

    async def close(self) -> None:
        """End it."""


Loader = Callable[[wire.Load], tuple[HostedLLM, wire.ModelProfile]]


def load_model(load: wire.Load) -> tuple[HostedLLM, wire.ModelProfile]:
    """Load a model of this machine and say what it is.

    Raises:
        SteelyardError: if it cannot be loaded.
    """
    llm = AsyncLLM(load.model, **asdict(load.options))
    parts = llm.parts
    return llm, wire.ModelProfile(
        name=parts.name,
        engine_config=parts.engine_config,
        vocab_size=parts.model.config.vocab_size,
        hidden_size=parts.hidden_size,
        held_bytes=parts.held_bytes,
        kv_cache_bytes=parts.kv_cache_bytes,
        default_params=parts.default_params,
        eos_token_ids=parts.eos_token_ids,
    )


@final
class Worker:
    """A replica at its end of the connection.

    Args:
        start: what it was told.
        load: loads the model, on a thread.
    """

    def __init__(self, start: WorkerStart, load: Loader = load_model) -> None:
        self._start, self._load = start, load
        self._link = Link(wire.Reader(wire.FromServer))
        self._llm: HostedLLM | None = None
        self._replica: EngineReplica | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._moved_s = 0.0  # when the engine last ended a step, or began to have work
        self._others: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Work until told to end; return the exit code, 0 only for an end in order."""
        self._link.on_message, self._link.on_lost = self._take, lambda cause: self._end(1)
        await _connect(self._start.address, self._link)
        self._link.send(wire.Hello(wire.PROTOCOL, self._start.replica, self._start.secret))
        code = await self._over
        if code == 0 and self._llm is not None:
            await self._llm.close()
        return code

    def _take(self, message: object) -> None:
        match message:
            case wire.Load():
                self._spawn(self._load_and_watch(message))
            case wire.Submit(number):
                self._moved_s = self._moved_s if self._tasks else now_s()
                task = asyncio.get_running_loop().create_task(self._work(message))
                self._tasks[number] = task
                task.add_done_callback(lambda done: self._tasks.pop(number, None))
            case wire.Cancel(number) if number in self._tasks:
                self._tasks[number].cancel()
            case wire.Shares(shares) if self._llm is not None:
                self._llm.set_shares(dict(shares))
            case wire.Ping():
                status = None if self._llm is None else ReplicaStatus.of(self._llm.start())
                self._link.send(wire.Pong(status, now_s() - self._moved_s if self._tasks else 0.0))
            case wire.Look() if self._llm is not None:
                engine = self._llm.start()
                self._link.send(wire.Picture(engine.live_sequences(), engine.kv_block_states, now_s()))
            case wire.Close():
                self._end(0)

    async def _load_and_watch(self, load: wire.Load) -> None:
        """Load the model, say so, and end when its engine dies."""
        try:
            llm, profile = await asyncio.to_thread(self._load, load)
        except Exception as error:
            logger.exception("%s could not load its model", self._start.replica)
            self._link.send(wire.Failed(wire.written(error)))
            return
        self._llm, engine = llm, llm.start()
        engine.add_observer(self._tell_step)
        self._replica = EngineReplica(self._start.replica, engine)
        self._link.send(wire.Ready(profile))
        cause = await llm.stopped()
        if cause is not None:
            logger.error("the engine of %s has died", self._start.replica, exc_info=cause)
            self._end(1)

    async def _work(self, message: wire.Submit) -> None:
        """Answer one request."""
        try:
            assert self._llm is not None, "the server waits for Ready"
            assert self._replica is not None, "it is made with the model"
            request = _received(message)
            await self._llm.prepare(request.params)
            async with aclosing(self._replica.stream(request)) as increments:
                async for increment in increments:
                    self._link.send(wire.Grown(message.number, increment))
        except Exception as error:
            self._link.send(wire.Ended(message.number, wire.written(error)))

    def _tell_step(self, record: StepRecord) -> None:
        assert self._llm is not None
        self._moved_s = now_s()
        slim = replace(record, schedule=Schedule(grants=(), preempt=record.schedule.preempt))
        self._link.send(wire.Stepped(slim, ReplicaStatus.of(self._llm.start())))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def _end(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)


def _received(message: wire.Submit) -> Request:
    """Return a request with its deadline on this process's clock, under a name that no other has here."""
    left_s = message.time_left_s
    deadline_s = None if left_s is None else now_s() + left_s
    return replace(message.request, id=f"{message.number}:{message.request.id}", deadline_s=deadline_s)


async def _connect(address: str, link: Link) -> None:
    loop = asyncio.get_running_loop()
    kind, _, where = address.partition(":")
    if kind == "unix":
        await loop.create_unix_connection(lambda: link, where)
    else:
        host, _, port = where.rpartition(":")
        await loop.create_connection(lambda: link, host, int(port))


def die_with_parent() -> None:
    """Let the system kill this process when its parent dies, even while it is stopped (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(load: Loader = load_model) -> None:
    """Be a worker."""
    die_with_parent()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerStart)
    configure_logs(start.observe)
    if start.cores and sys.platform == "linux":
        os.sched_setaffinity(0, start.cores)

    asyncio.run(_run(start, load))


async def _run(start: WorkerStart, load: Loader) -> None:
    """Run a worker and end the process without waiting for threads: a step may still be computed for nobody."""
    code = 1
    try:
        code = await Worker(start, load).run()
    except Exception:
        logger.exception("%s ends of a bug", start.replica)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
