"""Static batching: a batch is filled when the engine is empty, and nobody joins before its last member is done.

This is how inference servers worked before continuous batching (FasterTransformer under a batching front end). It is
here to be compared with: S74's measure of what temporal fusion gains.
"""

from __future__ import annotations

from dataclasses import replace

from steelyard.policies.schedule.fcfs import fcfs
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView


def static(view: SchedulerView) -> Schedule:
    """Serve as ``fcfs`` does, but admit only while nothing runs."""
    schedule = fcfs(view)
    if not view.running:
        return schedule
    running = {sequence.id for sequence in view.running}
    return replace(schedule, grants=tuple(grant for grant in schedule.grants if grant.sequence_id in running))


def make_static() -> SchedulePolicy:
    """Return :func:`static`; it has no parameters."""
    return static
