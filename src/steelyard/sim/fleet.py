"""A fleet of modelled engines behind a dispatcher, with faults on demand.

Everything but the machines is the real thing: engines, scheduling and routing policies, dispatcher. On
:class:`~steelyard.sim.virtual.VirtualLoop` a run is a function of its inputs, so a fault found once is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import final

from steelyard.core.batch import Batch, StepOutput
from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import EngineStoppedError
from steelyard.engine.config import EngineConfig
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor
from steelyard.fleet.dispatcher import Dispatcher
from steelyard.fleet.replica import EngineReplica
from steelyard.policies.schedule.types import SchedulePolicy


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
class _Machine:
    """A running replica and what it is made of."""

    replica: EngineReplica
    engine: Engine
    executor: FaultyExecutor
    loop: asyncio.Task[None]


@final
class ModelledFleet:
    """Places 0 … n − 1, each with a replica or, after :meth:`kill`, empty. To be made inside the running loop.

    Args:
        num_places: how many.
        dispatcher: the replicas join it; requests go through it.
        config: of every engine.
        make_executor: makes a machine.
        make_policy: makes an engine's scheduling policy.
        vocab_size: for checking token ids in requests.
    """

    def __init__(
        self,
        num_places: int,
        dispatcher: Dispatcher,
        config: EngineConfig,
        *,
        make_executor: Callable[[], Executor],
        make_policy: Callable[[], SchedulePolicy],
        vocab_size: int,
    ) -> None:
        self.dispatcher = dispatcher
        self._config, self._vocab_size = config, vocab_size
        self._make_executor, self._make_policy = make_executor, make_policy
        self._machines: dict[int, _Machine] = {}
        self._num_started = 0
        for place in range(num_places):
            self.start(place)

    def start(self, place: int) -> None:
        """Put a fresh replica in an empty place."""
        assert place not in self._machines, f"place {place} is taken"
        executor = FaultyExecutor(self._make_executor())
        engine = Engine(self._config, executor, self._make_policy(), vocab_size=self._vocab_size)
        replica = EngineReplica(f"replica-{place}.{self._num_started}", engine)
        self._num_started += 1
        loop = asyncio.get_running_loop().create_task(engine.run(), name=replica.id)
        self._machines[place] = _Machine(replica, engine, executor, loop)
        self.dispatcher.join(replica)

    async def kill(self, place: int) -> None:
        """Let a replica die in the middle of what it does; an empty place stays empty."""
        machine = self._machines.pop(place, None)
        if machine is None:
            return
        machine.loop.cancel()
        with suppress(asyncio.CancelledError, EngineStoppedError):  # its machine may have failed too often before
            await machine.loop
        await machine.engine.close()
        self.dispatcher.leave(machine.replica.id)

    def executor(self, place: int) -> FaultyExecutor | None:
        """Return the machine at a place, to be slowed down or made to fail; ``None`` for an empty place."""
        machine = self._machines.get(place)
        return None if machine is None else machine.executor

    async def close(self) -> None:
        """Close every engine."""
        for machine in self._machines.values():
            await machine.engine.close()
            with suppress(EngineStoppedError):
                await machine.loop

    def check_idle(self) -> None:
        """Raise ``AssertionError`` unless nothing runs, nothing waits, and every KV block is free."""
        for machine in self._machines.values():
            machine.engine.check_invariants()
            load = machine.engine.load()
            assert (load.num_running, load.num_waiting, load.num_promised_blocks) == (0, 0, 0), "a sequence is left"
            assert load.num_free_blocks == self._config.num_kv_blocks, "a block leaked"
        for view in self.dispatcher.views():
            assert (view.num_outstanding_requests, view.num_outstanding_tokens) == (0, 0), "a request is still counted"
