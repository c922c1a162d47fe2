"""What every source of costs answers: how long a step takes on a replica, and how much power it draws.

The roofline, tables of measured operators and learned predictors are such sources. The simulator and the planners ask
nothing else of them, so any of them can stand in for any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from steelyard.cost.roofline import StepShape


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """What one step takes.

    Attributes:
        seconds: from its start to its tokens.
        watts: drawn by all devices of the replica meanwhile, on average; ``None`` if the source does not know.
    """

    seconds: float
    watts: float | None = None

    @property
    def joules(self) -> float | None:
        """Energy of the step; ``None`` if the power is not known."""
        return None if self.watts is None else self.watts * self.seconds


class StepModel(Protocol):
    """One replica's steps: a model in its number formats, on its devices, with its degrees of parallelism."""

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """Return what ``step`` takes; the same arguments give the same answer.

        Args:
            step: an empty one costs the overhead only.
            clock_share: of the devices' full clock that they run at, above 0 and at most 1 (frequency capping).
        """
        ...
