"""To the replica with the least work before it."""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest, healthy_indices, load_order


def least_loaded(request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
    """Choose by (load, outstanding requests, id)."""
    return min(healthy_indices(replicas), key=lambda index: load_order(replicas[index]))


def make_least_loaded() -> RoutePolicy:
    """Return :func:`least_loaded`; it has no parameters."""
    return least_loaded
