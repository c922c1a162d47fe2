"""The way between the router and a replica, which can be cut.

Both ends notice at once. The replica drops what it had under way, as the server does whose connection is gone
(:mod:`steelyard.serve.cluster.worker` ends altogether and is started again; here it stays, with its prefix cache).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import final

from steelyard.core.errors import ReplicaLostError
from steelyard.core.request import Request
from steelyard.fleet.replica import Increment, Replica


@final
class Link:
    """A :class:`~steelyard.fleet.replica.Replica` behind a way that can be cut.

    Args:
        replica: at the other end.
    """

    def __init__(self, replica: Replica) -> None:
        self.id, self.capacity = replica.id, replica.capacity
        self._replica = replica
        self._num_cuts = 0
        self._waiting: dict[asyncio.Timeout, None] = {}  # in the order of beginning to wait

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through."""
        return self._num_cuts > 0

    def cut(self) -> None:
        """Let all streams end as lost, and new ones too, until each cut is mended."""
        self._num_cuts += 1
        for waiting in self._waiting:
            waiting.reschedule(0.0)

    def mend(self) -> None:
        """Undo one cut."""
        assert self._num_cuts > 0, "it is whole"
        self._num_cuts -= 1

    async def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        """See :class:`~steelyard.fleet.replica.Replica`."""
        async with aclosing(self._replica.stream(request)) as increments:
            while (increment := await self._next(increments)) is not None:
                yield increment

    async def _next(self, increments: AsyncGenerator[Increment, None]) -> Increment | None:
        """Return the next increment, ``None`` after the last."""
        if not self.is_cut:
            try:
                async with asyncio.timeout(None) as waiting:
                    self._waiting[waiting] = None
                    try:
                        return await anext(increments, None)
                    finally:
                        del self._waiting[waiting]
            except TimeoutError:
                pass
        raise ReplicaLostError("it cannot be reached", field=self.id, remedy="Send the request again")
