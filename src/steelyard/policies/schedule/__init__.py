"""Scheduling policies: what one step computes. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.registry import make_registered
from steelyard.policies.schedule.fcfs import make_fcfs
from steelyard.policies.schedule.prefill_first import make_prefill_first
from steelyard.policies.schedule.priority import make_priority
from steelyard.policies.schedule.shortest_first import make_shortest_first
from steelyard.policies.schedule.static import make_static
from steelyard.policies.schedule.types import SchedulePolicy
from steelyard.policies.schedule.vtc import make_vtc

SCHEDULE_POLICIES: dict[str, Callable[..., SchedulePolicy]] = {
    "fcfs": make_fcfs,
    "prefill_first": make_prefill_first,
    "priority": make_priority,
    "shortest_first": make_shortest_first,
    "static": make_static,
    "vtc": make_vtc,
}

# While all that runs decodes and nobody can be admitted, these say the same in every step, and being asked less often
# does not change what they say later. ``priority`` changes its order as sequences grow old, ``vtc`` keeps an account.
STEADY_POLICIES = frozenset({"fcfs", "prefill_first", "shortest_first", "static"})


def make_schedule_policy(name: str, **options: Any) -> SchedulePolicy:
    """Return the policy registered under ``name``.

    Args:
        name: a key of :data:`SCHEDULE_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(SCHEDULE_POLICIES, name, options, "schedule_policy")
