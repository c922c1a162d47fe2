"""Scheduling policies: what one step computes. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from steelyard.core.errors import ParamsError
from steelyard.policies.schedule.fcfs import make_fcfs
from steelyard.policies.schedule.priority import make_priority
from steelyard.policies.schedule.shortest_first import make_shortest_first
from steelyard.policies.schedule.static import make_static
from steelyard.policies.schedule.types import SchedulePolicy

SCHEDULE_POLICIES: dict[str, Callable[..., SchedulePolicy]] = {
    "fcfs": make_fcfs,
    "priority": make_priority,
    "shortest_first": make_shortest_first,
    "static": make_static,
}


def make_schedule_policy(name: str, **options: Any) -> SchedulePolicy:
    """Return the policy registered under ``name``.

    Args:
        name: a key of :data:`SCHEDULE_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    factory = SCHEDULE_POLICIES.get(name)
    if factory is None:
        valid = ", ".join(SCHEDULE_POLICIES)
        raise ParamsError(f"there is no policy {name!r}", field="schedule_policy", remedy=f"Use one of {valid}")
    known = signature(factory).parameters
    for option in options:
        if option not in known:
            valid = ", ".join(known) or "none"
            raise ParamsError(f"{name} has no such option", field=option, remedy=f"Valid options: {valid}")
    return factory(**options)
