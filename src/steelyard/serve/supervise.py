"""Engines that die are noticed, put away and made anew: :class:`Supervisor`.

An engine dies of a bug: its loop ends with an exception, and every request it had is told. From then on its model
counts as down: ``/health`` says so, and requests for it are refused at once instead of waiting for nobody. After a
pause it is loaded again, so many times; if it keeps dying it stays down, for whoever watches ``/health`` to act.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict, deque

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.errors import EngineStoppedError
from steelyard.serve.errors import ApiError
from steelyard.serve.pool import ModelPool, ServedModel

logger = logging.getLogger("steelyard.serve")

FIRST_PAUSE_S = 1.0  # doubled with every death
_MEMORY_S = 600.0  # deaths longer ago than this count no more


class Restarts:
    """Counts the deaths of one thing.

    Args:
        max_restarts: times within ten minutes that it is made anew.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._deaths_s: deque[float] = deque()

    def pause_s(self) -> float:
        """Note a death and return the seconds until it is made again; infinity for never."""
        deaths_s = self._deaths_s
        while deaths_s and deaths_s[0] < now_s() - _MEMORY_S:
            deaths_s.popleft()
        deaths_s.append(now_s())
        return FIRST_PAUSE_S * 2 ** (len(deaths_s) - 1) if len(deaths_s) <= self._max_restarts else math.inf


class Supervisor:
    """Watches the engines of one pool.

    Args:
        pool: has the models.
        max_restarts: times that a model's engine is made anew within ten minutes.
    """

    def __init__(self, pool: ModelPool, max_restarts: int) -> None:
        self._pool = pool
        self._restarts: dict[str, Restarts] = defaultdict(lambda: Restarts(max_restarts))
        self._watches: set[asyncio.Task[None]] = set()

    def watch(self, model: ServedModel) -> None:
        """Watch a model that has just been loaded."""
        task = asyncio.get_running_loop().create_task(self._watch(model))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    def close(self) -> None:
        """Watch no more."""
        for task in self._watches:
            task.cancel()

    async def _watch(self, model: ServedModel) -> None:
        llm = model.llm
        assert llm is not None
        cause = await llm.stopped()
        if cause is None or model.llm is not llm:
            return
        logger.error("the engine of %s has died", model.name, exc_info=cause)
        pause_s = self._restarts[model.name].pause_s()
        error = EngineStoppedError("it has died", field="engine", remedy="See the server's log")
        await self._pool.take_down(model, error, until_s=now_s() + pause_s)
        if pause_s == math.inf:
            logger.error("%s has died too often and stays down", model.name)
            return
        await sleep_s(pause_s)
        await self._bring_up(model)

    async def _bring_up(self, model: ServedModel) -> None:
        try:
            async with self._pool.lease(model.name):
                logger.info("%s is up again", model.name)
        except ApiError as error:
            logger.error("%s could not be loaded again: %s", model.name, error.message)
