"""What a scaling policy sees and what it decides.

Whoever runs an autoscaler asks a policy at regular intervals how many replicas there shall be, and starts or stops the
difference. Demand is counted in replicas: 2.5 means that two and a half of them would be busy. Forecasts are made
elsewhere (:mod:`steelyard.plan.forecast`) and are part of the view, as possible futures; a policy sees no model. An
autoscaler asks whoever makes them by :class:`DemandForecaster`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.errors import ParamsError

Futures = tuple[tuple[float, ...], ...]
"""Possible futures, each as likely as any other: a demand in replicas per moment."""


class DemandForecaster(Protocol):
    """Says what may come of demand. It is trained already, and asked at moments of equal length."""

    def futures(self, demands: Sequence[float], num_moments: int) -> Futures:
        """Return possible futures of the next moments; none if it cannot say anything yet.

        Args:
            demands: of every moment since those that the forecaster was trained on, oldest first; in replicas.
            num_moments: to look ahead.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleView:
    """How things stand when a decision is due.

    Attributes:
        num_replicas: that run or start.
        demands: since the decision before, oldest first; at the first decision, as far back as is known.
        forecast: possible futures, each a demand per moment for as long as the decision holds; empty if nobody
            forecasts. Each is as likely as any other.
    """

    num_replicas: int
    demands: tuple[float, ...]
    forecast: Futures = ()


class ScalePolicy(Protocol):
    """Decides how many replicas there shall be until it is asked again."""

    def decide(self, view: ScaleView) -> int:
        """Return the number of replicas, within the policy's limits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many replicas there may be.

    Attributes:
        least: 0 or more.
        most: at least ``least``; ``None`` for as many as are wanted.

    Raises:
        ParamsError: if they contradict each other.
    """

    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most is not None and self.most < self.least):
            problem = f"{self.least} to {self.most} is no range"
            raise ParamsError(problem, field="min_replicas", remedy="Give 0 or more, and at most max_replicas")

    def within(self, num_replicas: int) -> int:
        """Return the nearest number that is allowed."""
        capped = num_replicas if self.most is None else min(num_replicas, self.most)
        return max(capped, self.least)
