"""The number of replicas that costs least on average over a forecast's possible futures (S27, HARMONY).

An idle replica costs, a missing one costs more. Over futures that are equally likely, the cheapest number is the least
one that covers the share ``missing / (missing + idle)`` of all demands: the newsvendor's quantile (Arrow, Harris and
Marschak, 1951). A forecast may be wrong about its own uncertainty. So the policy keeps where past demands fell within
their forecasts, and asks for the quantile that would have covered the share *so far*: with a prior that the forecast is
right, worth ``prior_weight`` demands, the posterior mean of a Dirichlet process. The paper speaks of an adaptive
Bayesian decision, its published program holds none; this is ours.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from steelyard.policies.registry import check_number
from steelyard.policies.scale.types import Futures, Limits, ScaleView

DEFAULT_IDLE_COST = 1.0
DEFAULT_MISSING_COST = 10.0
DEFAULT_PRIOR_WEIGHT = 200.0
_REMEMBERED = 2000  # demands; older ones tell of another world


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedCostConfig:
    """Parameters of :class:`ExpectedCostPolicy`.

    Attributes:
        idle_cost: of a replica that is not needed, per moment.
        missing_cost: of a replica that is needed and not there, per moment.
        prior_weight: how many demands' worth of trust the forecast has; ``None`` never doubts it.
        limits: on the number of replicas.

    Raises:
        ParamsError: if a cost or weight is not positive.
    """

    idle_cost: float = DEFAULT_IDLE_COST
    missing_cost: float = DEFAULT_MISSING_COST
    prior_weight: float | None = DEFAULT_PRIOR_WEIGHT
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_number("idle_cost", self.idle_cost, above=0)
        check_number("missing_cost", self.missing_cost, above=0)
        if self.prior_weight is not None:
            check_number("prior_weight", self.prior_weight, above=0)

    @property
    def covered(self) -> float:
        """The share of demands that the cheapest number covers, between 0 and 1."""
        return self.missing_cost / (self.missing_cost + self.idle_cost)


@final
class ExpectedCostPolicy:
    """Decide by expected cost; without a forecast, past demands stand for the futures."""

    def __init__(self, config: ExpectedCostConfig) -> None:
        self._config = config
        self._ranks: deque[float] = deque(maxlen=_REMEMBERED)
        self._last: list[list[float]] = []

    def decide(self, view: ScaleView) -> int:
        """See :class:`~steelyard.policies.scale.types.ScalePolicy`."""
        self._learn(view.demands)
        self._last = [sorted(moment) for moment in zip(*view.forecast, strict=True)]
        demands = sorted(demand for path in view.forecast or (view.demands,) for demand in path)
        return self._config.limits.within(cheapest_count(demands, self.level))

    @property
    def level(self) -> float:
        """The level of a forecast that the policy asks for now, having seen where past demands fell."""
        return believed_level(self._config.covered, self._ranks, self._config.prior_weight)

    def expected_cost(self, forecast: Futures, num_replicas: int) -> float:
        """Return what so many replicas would cost per moment, on average over what the policy believes may come.

        That is the forecast, and with it past demands at their ranks: each of those weighs one, the forecast
        ``prior_weight``. Of all numbers, :meth:`decide` takes one at which this is least.
        """
        demands = sorted(demand for path in forecast for demand in path)
        costs = [self._cost(num_replicas, demand) for demand in demands]
        foreseen, weight = sum(costs) / len(costs), self._config.prior_weight
        if weight is None:
            return foreseen
        remembered = sum(costs[_place(rank, len(costs))] for rank in self._ranks)
        return (weight * foreseen + remembered) / (weight + len(self._ranks))

    def _cost(self, num_replicas: int, demand: float) -> float:
        gap = num_replicas - math.ceil(demand)
        return gap * self._config.idle_cost if gap > 0 else -gap * self._config.missing_cost

    def _learn(self, demands: tuple[float, ...]) -> None:
        """Note what share of its futures lay below each demand since the last decision."""
        for demand, futures in zip(demands, self._last, strict=False):
            self._ranks.append(bisect_left(futures, demand) / len(futures))


def cheapest_count(demands: Sequence[float], covered: float) -> int:
    """Return the least whole number that is at least as large as a share ``covered`` of ``demands``, which rise.

    With costs per idle and per missing replica it minimises their sum over all demands, if these are whole numbers.
    0 if there are no demands.
    """
    if not demands:
        return 0
    return max(0, math.ceil(demands[_place(covered, len(demands))]))


def _place(level: float, num: int) -> int:
    """Return which of ``num`` ascending values is the first that a share ``level`` does not exceed."""
    return min(num - 1, max(0, math.ceil(level * num) - 1))


def believed_level(wanted: float, ranks: Sequence[float], prior_weight: float | None) -> float:
    """Return the level of a forecast that covers the share ``wanted`` of demands, going by past ``ranks``.

    The share covered at a level is taken to be ``(prior_weight · level + ranks at or below it) / (prior_weight +
    ranks)``; returned is the least level at which that is ``wanted``, at most 1.
    """
    if prior_weight is None or not ranks:
        return wanted
    total = wanted * (prior_weight + len(ranks))
    below = 0.0
    for number, rank in enumerate(sorted(ranks)):
        level = (total - number) / prior_weight
        if level < rank:
            return max(level, below)
        below = rank
    return min(1.0, max(below, (total - len(ranks)) / prior_weight))


def make_expected_cost(
    *,
    idle_cost: float = DEFAULT_IDLE_COST,
    missing_cost: float = DEFAULT_MISSING_COST,
    prior_weight: float | None = DEFAULT_PRIOR_WEIGHT,
    min_replicas: int = 1,
    max_replicas: int | None = None,
) -> ExpectedCostPolicy:
    """Return an :class:`ExpectedCostPolicy`; the options are :class:`ExpectedCostConfig`'s."""
    limits = Limits(least=min_replicas, most=max_replicas)
    return ExpectedCostPolicy(
        ExpectedCostConfig(idle_cost=idle_cost, missing_cost=missing_cost, prior_weight=prior_weight, limits=limits)
    )
