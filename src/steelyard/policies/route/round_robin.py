"""Each replica in its turn, whatever requests weigh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest, healthy_indices


@final
class RoundRobin:
    """Choose the healthy replica that was chosen longest ago, new ones first, and by id among those.

    So of n replicas that stay healthy each is chosen once in n requests.
    """

    def __init__(self) -> None:
        self._num_chosen = 0
        self._last_turn: dict[str, int] = {}

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
        """See :class:`~steelyard.policies.route.types.RoutePolicy`."""
        healthy = healthy_indices(replicas)
        chosen = min(healthy, key=lambda index: (self._last_turn.get(replicas[index].id, -1), replicas[index].id))
        self._last_turn = {r.id: self._last_turn[r.id] for r in replicas if r.id in self._last_turn}
        self._last_turn[replicas[chosen].id] = self._num_chosen
        self._num_chosen += 1
        return chosen


def make_round_robin() -> RoutePolicy:
    """Return a :class:`RoundRobin`; it has no parameters."""
    return RoundRobin()
