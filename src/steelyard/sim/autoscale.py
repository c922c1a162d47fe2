"""An autoscaler at work while a trace is simulated: it looks, asks a scaling policy, orders replicas and retires some.

The policies are those of :mod:`steelyard.policies.scale`. Demand is counted in ongoing requests over those that one
replica is to have (as Ray Serve's ``target_ongoing_requests``). A replica that was ordered takes requests after its
cold start; so a forecast is asked for until those of the next decision do, which is as long as this one holds. Orders
that are no longer wanted are taken back first, the latest first; then those retire that have least to do, of equals
the one that came last.
"""

from __future__ import annotations

import asyncio
import math
from typing import final

from steelyard.core.clock import now_s, sleep_s
from steelyard.policies.scale import make_scale_policy
from steelyard.policies.scale.types import DemandForecaster, Futures, ScaleView
from steelyard.sim.conditions import Autoscale
from steelyard.sim.replicas import ModelledReplicas
from steelyard.sim.result import EventKind


@final
class Autoscaler:
    """Keeps one group as large as its policy wants it.

    Args:
        config: how.
        replicas: of all groups.
        forecaster: of the group's demand; its moments are ``look_every_s`` long. ``None`` for no forecast.
    """

    def __init__(
        self, config: Autoscale, replicas: ModelledReplicas, forecaster: DemandForecaster | None = None
    ) -> None:
        self._config, self._replicas, self._forecaster = config, replicas, forecaster
        self._policy = make_scale_policy(config.policy, **config.options)
        self._orders: list[asyncio.Task[None]] = []  # not delivered, oldest first
        self._demands: list[float] = []

    async def run(self) -> None:
        """Look and decide until cancelled."""
        config = self._config
        looks = max(1, round(config.every_s / config.look_every_s))
        try:
            while True:
                seen = [await self._look() for _ in range(looks)]
                self._demands += seen
                self._decide(tuple(seen), looks)
        finally:
            for order in self._orders:
                order.cancel()

    async def _look(self) -> float:
        await sleep_s(self._config.look_every_s)
        return sum(self._replicas.num_ongoing(self._config.group).values()) / self._config.target_ongoing_requests

    def _decide(self, seen: tuple[float, ...], looks: int) -> None:
        standing = self._replicas.standing_of(self._config.group)
        num_there = len(standing) + len(self._orders)
        starting = math.ceil(self._config.cold_start_s / self._config.look_every_s)
        view = ScaleView(num_replicas=num_there, demands=seen, forecast=self._futures(looks + starting))
        num_wanted = self._policy.decide(view)
        for _ in range(num_wanted - num_there):
            self._order()
        self._give_up(num_there - num_wanted)

    def _futures(self, num_moments: int) -> Futures:
        return () if self._forecaster is None else self._forecaster.futures(self._demands, num_moments)

    def _order(self) -> None:
        order = self._deliver(now_s())
        self._orders.append(asyncio.get_running_loop().create_task(order, name=f"order {self._config.group}"))

    async def _deliver(self, ordered_s: float) -> None:
        await sleep_s(self._config.cold_start_s)
        del self._orders[0]  # they are delivered in their order
        place = self._replicas.add_place(self._config.group)
        self._replicas.start(place, EventKind.ADDED, paid_from_s=ordered_s)

    def _give_up(self, count: int) -> None:
        """Take back orders, then retire replicas."""
        while count > 0 and self._orders:
            self._orders.pop().cancel()
            count -= 1
        ongoing = self._replicas.num_ongoing(self._config.group)
        idlest = sorted((load, -age, place) for age, (place, load) in enumerate(ongoing.items()))
        for _, _, place in idlest[: max(count, 0)]:
            life = self._replicas.standing(place)
            assert life is not None
            self._replicas.retire(life)
