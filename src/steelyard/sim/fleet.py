"""A fleet of modelled engines behind a dispatcher, with faults on demand.

Everything but the machines is the real thing: engines, scheduling and routing policies, dispatcher. On
:class:`~steelyard.sim.virtual.VirtualLoop` a run is a function of its inputs, so a fault found once is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import EngineStoppedError
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor
from steelyard.fleet.dispatcher import Dispatcher
from steelyard.fleet.replica import Replica

MachineT = TypeVar("MachineT")

_RETIRING_LOOKS_S = 1.0


@final
class FaultyExecutor:
    """An executor that can be slowed down and made to fail.

    Attributes:
        slowdown: how many times as long a step takes, at least 1.
        num_failures: so many of the next steps raise, after the time they would have taken.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.slowdown = 1.0
        self.num_failures = 0

    async def execute(self, batch: Batch) -> StepOutput:
        """Execute as the inner one does, as slowly as told.

        Raises:
            EngineStoppedError: if a failure is due.
        """
        start_s = now_s()
        output = await self._executor.execute(batch)
        await sleep_s((self.slowdown - 1.0) * (now_s() - start_s))
        if self.num_failures:
            self.num_failures -= 1
            raise EngineStoppedError("an injected fault", field="executor", remedy="None is needed")
        return output

    async def close(self) -> None:
        """Close the inner one."""
        await self._executor.close()


@dataclass(frozen=True, slots=True)
class Built(Generic[MachineT]):
    """What stands in a place: an engine, the machine that computes its steps, and how the fleet reaches it."""

    engine: Engine
    machine: MachineT
    replica: Replica


@dataclass(frozen=True, slots=True)
class _Standing(Generic[MachineT]):
    built: Built[MachineT]
    loop: asyncio.Task[None]


@final
class ModelledFleet(Generic[MachineT]):
    """Places 0 … n − 1, each with a replica or, after :meth:`kill`, empty. To be made inside the running loop.

    Args:
        dispatcher: the replicas join it; requests go through it.
        build: makes what stands in a place, given the place and a name that no other replica has had.
    """

    def __init__(self, dispatcher: Dispatcher, build: Callable[[int, str], Built[MachineT]]) -> None:
        self.dispatcher = dispatcher
        self._build = build
        self._standing: dict[int, _Standing[MachineT]] = {}
        self._num_started = 0

    def start(self, place: int) -> Built[MachineT]:
        """Put a fresh replica in an empty place and return it."""
        assert place not in self._standing, f"place {place} is taken"
        built = self._build(place, f"replica-{place}.{self._num_started}")
        self._num_started += 1
        loop = asyncio.get_running_loop().create_task(built.engine.run(), name=built.replica.id)
        self._standing[place] = _Standing(built, loop)
        self.dispatcher.join(built.replica)
        return built

    async def kill(self, place: int) -> None:
        """Let a replica die in the middle of what it does; an empty place stays empty."""
        standing = self._standing.pop(place, None)
        if standing is None:
            return
        standing.built.engine.settle()
        await sleep_s(0.0)  # whoever reads along has what was computed before
        standing.loop.cancel()
        with suppress(asyncio.CancelledError, EngineStoppedError):  # its machine may have failed too often before
            await standing.loop
        await standing.built.engine.close()
        self.dispatcher.leave(standing.built.replica.id)

    async def retire(self, place: int) -> None:
        """Give a replica nothing more, let it finish what it has, and empty its place."""
        standing = self._standing.pop(place)
        self.dispatcher.leave(standing.built.replica.id)
        while standing.built.engine.load().num_running or standing.built.engine.load().num_waiting:
            await sleep_s(_RETIRING_LOOKS_S)
        await _close(standing)

    def standing(self) -> dict[int, Built[MachineT]]:
        """Return what stands where, in the order of starting."""
        return {place: standing.built for place, standing in self._standing.items()}

    def machine(self, place: int) -> MachineT | None:
        """Return the machine at a place, to be slowed down or made to fail; ``None`` for an empty place."""
        standing = self._standing.get(place)
        return None if standing is None else standing.built.machine

    async def close(self) -> None:
        """Close every engine."""
        for standing in self._standing.values():
            await _close(standing)

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` if an engine's books contradict each other; slow."""
        for standing in self._standing.values():
            standing.built.engine.settle()
            standing.built.engine.check_invariants()

    def check_idle(self) -> None:
        """Raise ``AssertionError`` unless nothing runs, nothing waits, and every KV block is free."""
        for standing in self._standing.values():
            engine = standing.built.engine
            load = engine.load()
            assert (load.num_running, load.num_waiting, load.num_promised_blocks) == (0, 0, 0), "a sequence is left"
            assert load.num_free_blocks == engine.config.num_kv_blocks, "a block leaked"
        for view in self.dispatcher.views():
            assert (view.num_outstanding_requests, view.num_outstanding_tokens) == (0, 0), "a request is still counted"


async def _close(standing: _Standing[MachineT]) -> None:
    await standing.built.engine.close()
    with suppress(EngineStoppedError):
        await standing.loop
