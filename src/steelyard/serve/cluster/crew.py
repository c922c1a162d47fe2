"""Who keeps a fleet alive: :class:`Crew` starts replicas, notices their death and puts others in their places.

A replica is dead when its connection ends, or when it has said nothing for so long that it must hang. What is left of
its process is killed, and the next one comes after a pause that doubles with every death of that place. A place whose
replicas die too often stays empty; when all are empty the fleet is dead, and the server's own supervisor is told.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import EngineStoppedError, ReplicaLostError, SteelyardError
from steelyard.fleet.engine import FleetEngine
from steelyard.serve.cluster import wire
from steelyard.serve.cluster.dock import Dock
from steelyard.serve.cluster.link import Link
from steelyard.serve.cluster.processes import Launcher, Running
from steelyard.serve.cluster.remote import Health, RemoteReplica
from steelyard.serve.cluster.worker import WorkerStart
from steelyard.serve.config import ObserveConfig
from steelyard.serve.supervise import Restarts

logger = logging.getLogger("steelyard.serve")

_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Member:
    """A replica and its process.

    Attributes:
        remote: its end of the connection.
        process: to be killed when need be.
        profile: of the model that it has loaded.
    """

    remote: RemoteReplica
    process: Running
    profile: wire.ModelProfile


@final
class Crew:
    """Replicas in places 0 … n − 1. To be made and used within one event loop.

    Args:
        loads: what each place loads.
        launcher: starts them.
        dock: where they come to.
        health: when they count as dead.
        max_restarts: deaths of a place within ten minutes after which it is filled again.
        observe: how they write their logs.

    Attributes:
        members: place → its replica, where there is one.
        num_deaths: place → deaths there.
    """

    def __init__(
        self,
        loads: Sequence[wire.Load],
        launcher: Launcher,
        dock: Dock,
        *,
        health: Health,
        max_restarts: int,
        observe: ObserveConfig,
    ) -> None:
        self._loads, self._launcher, self._dock = tuple(loads), launcher, dock
        self._health, self._observe = health, observe
        self._restarts = [Restarts(max_restarts) for _ in loads]
        self._keepers: list[asyncio.Task[None]] = []
        self._num_started = 0
        self._settled: asyncio.Future[wire.ModelProfile] = asyncio.get_running_loop().create_future()
        self.members: dict[int, Member] = {}
        self.num_deaths = [0] * len(loads)

    async def start(self) -> wire.ModelProfile:
        """Fill every place and return what the first says of its model.

        The first settles how long contexts and how large KV caches are: the others, and those that come after a death,
        take its sizes, so that each can hold what any other could.

        Raises:
            SteelyardError: why the first that failed did; no replica is left then.
        """
        starting = [asyncio.ensure_future(self._fill(place)) for place in range(len(self._loads))]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for one in starting:
                one.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            await self.close()
            raise
        return self._settled.result()

    def keep(self, engine: FleetEngine) -> None:
        """Let the replicas join ``engine``, and keep every place filled from now on."""
        for member in self.members.values():
            engine.join(member.remote)
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(place, engine)) for place in self.members]

    async def stopped(self) -> BaseException | None:
        """Wait until no place is kept any more; return why, or ``None`` if that is because of :meth:`close`."""
        await asyncio.wait(self._keepers)
        if any(keeper.cancelled() for keeper in self._keepers):
            return None
        bugs = [keeper.exception() for keeper in self._keepers]
        dead = EngineStoppedError("all replicas have died too often", field="replicas", remedy="See the server's log")
        return next((bug for bug in bugs if bug is not None), dead)

    async def close(self) -> None:
        """End every replica: ask, wait, kill."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        members = list(self.members.values())
        self.members.clear()
        for member in members:
            member.remote.close()
        deadline_s = now_s() + self._health.close_s
        while any(member.process.is_alive() for member in members) and now_s() < deadline_s:
            await sleep_s(_LOOK_S)
        for member in members:
            member.process.kill()
        self._dock.close()

    async def _keep(self, place: int, engine: FleetEngine) -> None:
        """Look after one place until it has died too often."""
        while True:
            member = self.members[place]
            why = await member.remote.until_lost(self._health)
            logger.error("%s has died: %s", member.remote.id, why)
            del self.members[place]
            engine.leave(member.remote.id)
            member.remote.drop()
            member.process.kill()
            if not await self._refill(place):
                return
            engine.join(self.members[place].remote)

    async def _refill(self, place: int) -> bool:
        """Put a new replica in a place; return whether that succeeded before it was tried too often."""
        while True:
            self.num_deaths[place] += 1
            pause_s = self._restarts[place].pause_s()
            if pause_s == math.inf:
                logger.error("place %d has died too often and stays empty", place)
                return False
            await sleep_s(pause_s)
            try:
                await self._fill(place)
            except SteelyardError as error:
                logger.error("place %d could not be filled again: %s", place, error)
            else:
                return True

    async def _fill(self, place: int) -> None:
        """Start a replica and wait until it has loaded its model.

        Raises:
            SteelyardError: if it could not; nothing is left of it then.
        """
        name = f"replica-{place}.{self._num_started}"
        self._num_started += 1
        secret, arrival = self._dock.expect(name)
        start = WorkerStart(address=self._dock.address, replica=name, secret=secret, observe=self._observe)
        process = await self._launcher.launch(place, start)
        try:
            remote = RemoteReplica(name, await self._arrived(name, arrival, process))
            profile = await remote.load(await self._load_of(place), self._health)
        except BaseException:
            self._dock.forget(name)
            process.kill()
            raise
        self.members[place] = Member(remote, process, profile)
        if not self._settled.done():
            self._settled.set_result(profile)
        logger.info("%s is ready", name)

    async def _load_of(self, place: int) -> wire.Load:
        """Return what a place loads; all but the first wait for the sizes that it settles."""
        load = self._loads[place]
        if place == 0 and not self._settled.done():
            return load
        return load.settled(await self._settled)

    async def _arrived(self, name: str, arrival: asyncio.Future[Link], process: Running) -> Link:
        deadline_s = now_s() + self._health.start_s
        while not arrival.done() and process.is_alive() and now_s() < deadline_s:
            await asyncio.wait({arrival}, timeout=_LOOK_S)
        if arrival.done():
            return arrival.result()
        arrival.cancel()
        raise ReplicaLostError("its process did not come up", field=name, remedy="See the server's log")
