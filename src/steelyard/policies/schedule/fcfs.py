"""First come, first served: by arrival, whatever a sequence is or costs."""

from __future__ import annotations

from steelyard.policies.schedule.in_order import schedule_in_order
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView, SequenceView


def fcfs(view: SchedulerView) -> Schedule:
    """Serve sequences by (arrival, id); a preempted one keeps its arrival and so comes back first."""
    return schedule_in_order(view, _by_arrival)


def make_fcfs() -> SchedulePolicy:
    """Return :func:`fcfs`; it has no parameters."""
    return fcfs


def _by_arrival(sequence: SequenceView) -> tuple[float, ...]:
    return (sequence.arrival_s, sequence.id)
