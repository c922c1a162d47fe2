"""How evenly tenants were served: an instrument around a scheduling policy, with an account of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import final

from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView
from steelyard.policies.schedule.vtc import VtcConfig


@final
class ServiceMeter:
    """Decides as the policy it is put around, and notes per step what each tenant was given and who waits.

    Service is counted as :class:`~steelyard.policies.schedule.vtc.VtcPolicy` defines it, from grants alone: all known
    tokens of a sequence at its first admission, and one output token whenever a grant reaches its last known token.

    Args:
        policy: decides.
        config: weights and shares to count by.

    Attributes:
        service: tenant → service over share, up to the beginning of each step.
        waiting: tenants that still wait after each step's admissions.
    """

    def __init__(self, policy: SchedulePolicy, config: VtcConfig) -> None:
        self._policy, self._config = policy, config
        self.service: list[dict[str, float]] = []
        self.waiting: list[frozenset[str]] = []
        self._total: defaultdict[str, float] = defaultdict(float)
        self._admitted: set[int] = set()

    def __call__(self, view: SchedulerView) -> Schedule:
        """See :class:`~steelyard.policies.schedule.types.SchedulePolicy`."""
        schedule = self._policy(view)
        self.service.append(dict(self._total))
        running = {sequence.id: sequence for sequence in view.running}
        waiting = {sequence.id: sequence for sequence in view.waiting}
        for grant in schedule.grants:
            sequence = waiting.pop(grant.sequence_id, None)
            if sequence is None:
                sequence, start = running[grant.sequence_id], running[grant.sequence_id].num_computed_tokens
            else:
                start = view.cached_prefix(sequence.id).num_tokens
                if sequence.id not in self._admitted:
                    self._admitted.add(sequence.id)
                    self._add(sequence.tenant, self._config.input_weight * sequence.num_tokens)
            if start + grant.num_tokens >= sequence.num_tokens:
                self._add(sequence.tenant, self._config.output_weight)
        self.waiting.append(frozenset(sequence.tenant for sequence in waiting.values()))
        return schedule

    def _add(self, tenant: str, cost: float) -> None:
        self._total[tenant] += cost / self._config.shares.get(tenant, 1.0)

    def worst_difference(self, one: str, other: str) -> float:
        """Return the greatest difference of service to two tenants, over all intervals in which both always wait."""
        worst = low = high = 0.0
        for (before, after), waiting in zip(pairwise([*self.service, self._total]), self.waiting, strict=True):
            gap = _gained(before, after, one) - _gained(before, after, other)
            both = {one, other} <= waiting
            low, high = (min(0.0, low + gap), max(0.0, high + gap)) if both else (0.0, 0.0)
            worst = max(worst, high, -low)
        return worst


def _gained(before: Mapping[str, float], after: Mapping[str, float], tenant: str) -> float:
    return after.get(tenant, 0.0) - before.get(tenant, 0.0)
