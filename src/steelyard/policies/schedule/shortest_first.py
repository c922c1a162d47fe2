"""Shortest prompt first: less waiting on average, with a bound on how long the long ones wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.policies.schedule.in_order import schedule_in_order
from steelyard.policies.schedule.starvation import DEFAULT_STARVATION_S, check_starvation_s, starving_before_s
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView, SequenceView


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestFirstConfig:
    """Parameters of :class:`ShortestFirstPolicy`.

    Attributes:
        starvation_s: who came longer ago than this goes before all others, by arrival.

    Raises:
        ParamsError: if a value is out of range.
    """

    starvation_s: float = DEFAULT_STARVATION_S

    def __post_init__(self) -> None:
        check_starvation_s(self.starvation_s)


@final
class ShortestFirstPolicy:
    """Serve starving sequences by arrival, then the others by (prompt tokens still to compute, arrival, id).

    How long an output will be is unknown, so only the prompt counts: decodes come before prefills, in order of arrival.
    What the prefix cache holds of a waiting prompt does not count: asking for every one in every step costs too much.
    """

    def __init__(self, config: ShortestFirstConfig) -> None:
        self._config = config

    def __call__(self, view: SchedulerView) -> Schedule:
        """See :class:`~steelyard.policies.schedule.types.SchedulePolicy`."""
        starving_s = starving_before_s(view, self._config.starvation_s)

        def rank(sequence: SequenceView) -> tuple[float, ...]:
            if sequence.arrival_s < starving_s:
                return (0, 0, sequence.arrival_s, sequence.id)
            num_left = max(0, sequence.num_prompt_tokens - sequence.num_computed_tokens)
            return (1, num_left, sequence.arrival_s, sequence.id)

        return schedule_in_order(view, rank)


def make_shortest_first(*, starvation_s: float = DEFAULT_STARVATION_S) -> SchedulePolicy:
    """Return a :class:`ShortestFirstPolicy`; the options are :class:`ShortestFirstConfig`'s."""
    return ShortestFirstPolicy(ShortestFirstConfig(starvation_s=starvation_s))
