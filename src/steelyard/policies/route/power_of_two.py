"""The less loaded of two replicas drawn at random.

Nearly as even as looking at all of them, and when several routers see the same stale loads they do not all choose the
same replica (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import final

from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest, healthy_indices, load_order


@final
class PowerOfTwo:
    """Draw two healthy replicas and choose the less loaded; the only one if there is one.

    Args:
        rng: the source of its draws; each request takes one of them, so the same seed gives the same choices.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
        """See :class:`~steelyard.policies.route.types.RoutePolicy`."""
        healthy = sorted(healthy_indices(replicas), key=lambda index: replicas[index].id)
        drawn = self._rng.sample(healthy, min(2, len(healthy)))
        return min(drawn, key=lambda index: load_order(replicas[index]))


def make_power_of_two(*, seed: int = 0) -> RoutePolicy:
    """Return a :class:`PowerOfTwo` that draws from a generator of its own."""
    return PowerOfTwo(Random(seed))
