"""By priority, then arrival, with a bound on how long the unimportant wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.policies.schedule.in_order import schedule_in_order
from steelyard.policies.schedule.starvation import DEFAULT_STARVATION_S, check_starvation_s, starving_before_s
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView, SequenceView


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityConfig:
    """Parameters of :class:`PriorityPolicy`.

    Attributes:
        starvation_s: who came longer ago than this goes before all others, by arrival.
        preempt_for_seats: whether the first waiting sequence takes the place (seat and blocks) of running ones that are
            strictly less urgent and not starving. Off, it waits for a place as everybody does, and running sequences
            only lose blocks to running ones before them: each preemption costs computing a sequence again.

    Raises:
        ParamsError: if a value is out of range.
    """

    starvation_s: float = DEFAULT_STARVATION_S
    preempt_for_seats: bool = False

    def __post_init__(self) -> None:
        check_starvation_s(self.starvation_s)


@final
class PriorityPolicy:
    """Serve starving sequences by arrival, then the others by (priority, arrival, id); lower priority is sooner."""

    def __init__(self, config: PriorityConfig) -> None:
        self._config = config

    def __call__(self, view: SchedulerView) -> Schedule:
        """See :class:`~steelyard.policies.schedule.types.SchedulePolicy`."""
        starving_s = starving_before_s(view, self._config.starvation_s)

        def rank(sequence: SequenceView) -> tuple[float, ...]:
            if sequence.arrival_s < starving_s:
                return (0, 0, sequence.arrival_s, sequence.id)
            return (1, sequence.priority, sequence.arrival_s, sequence.id)

        def displaces(newcomer: SequenceView, runner: SequenceView) -> bool:
            return newcomer.priority < runner.priority and runner.arrival_s >= starving_s

        return schedule_in_order(view, rank, displaces if self._config.preempt_for_seats else None)


def make_priority(*, starvation_s: float = DEFAULT_STARVATION_S, preempt_for_seats: bool = False) -> SchedulePolicy:
    """Return a :class:`PriorityPolicy`; the options are :class:`PriorityConfig`'s."""
    return PriorityPolicy(PriorityConfig(starvation_s=starvation_s, preempt_for_seats=preempt_for_seats))
