"""What every forecaster does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steelyard.plan.forecast.series import Floats, Ints, Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked.

    Attributes:
        context: steps that a forecaster may look back from an origin (those that fit to one series see all before it).
        horizon: steps to forecast, the origin's own being the first.
        num_futures: to draw per origin.
        seed: of everything random.
    """

    context: int = 72
    horizon: int = 6
    num_futures: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitRequest:
    """What a forecaster for one series is made from.

    Attributes:
        series: whose training part may be seen.
        indicators: names of its columns, the target first.
        task: what will be asked.
        season: steps after which things repeat.
    """

    series: Series
    indicators: Sequence[str]
    task: Task
    season: int


class Forecaster(Protocol):
    """Draws possible futures of a series; it is trained already."""

    def draw(self, series: Series, starts: Ints) -> Floats:
        """Return futures on the series' scale, ``[starts, futures, horizon]``.

        A future that begins at a step knows the steps before it, and no other.
        """
        ...
