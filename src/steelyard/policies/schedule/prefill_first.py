"""Prompts before decodes: while a prompt can be computed, nothing else is.

This is how vLLM batched before it cut prompts into chunks, and what disaggregating the phases is measured against
(S19, S53): a prompt waits for one decode step at most, and every decode for all the prompts that come meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

from steelyard.policies.schedule.fcfs import fcfs
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView


def prefill_first(view: SchedulerView) -> Schedule:
    """Serve as ``fcfs`` does, but leave out the decodes of a step that computes prompts and preempts nobody."""
    schedule = fcfs(view)
    decodes = {sequence.id for sequence in view.running if sequence.num_tokens - sequence.num_computed_tokens == 1}
    prompts = tuple(grant for grant in schedule.grants if grant.sequence_id not in decodes)
    return replace(schedule, grants=prompts) if prompts and not schedule.preempt else schedule


def make_prefill_first() -> SchedulePolicy:
    """Return :func:`prefill_first`; it has no parameters."""
    return prefill_first
