"""Routing policies: which replica a request goes to. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.registry import make_registered
from steelyard.policies.route.least_loaded import make_least_loaded
from steelyard.policies.route.power_of_two import make_power_of_two
from steelyard.policies.route.prefix_affinity import make_prefix_affinity
from steelyard.policies.route.round_robin import make_round_robin
from steelyard.policies.route.types import RoutePolicy

ROUTE_POLICIES: dict[str, Callable[..., RoutePolicy]] = {
    "least_loaded": make_least_loaded,
    "power_of_two": make_power_of_two,
    "prefix_affinity": make_prefix_affinity,
    "round_robin": make_round_robin,
}


def make_route_policy(name: str, **options: Any) -> RoutePolicy:
    """Return the policy registered under ``name``.

    Args:
        name: a key of :data:`ROUTE_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(ROUTE_POLICIES, name, options, "route_policy")
