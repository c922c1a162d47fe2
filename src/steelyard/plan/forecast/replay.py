"""What scaling by a policy would have cost on a series: idle replicas, and missing ones.

At each origin the policy is shown what was demanded since the last one and, if somebody forecasts, possible futures up
to the next; its number of replicas then holds for the horizon. Replicas are there at once: how long they take to start
is the simulator's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.plan.forecast.series import Floats
from steelyard.policies.scale.types import ScalePolicy, ScaleView


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCost:
    """What came of a replay; replicas times steps.

    Attributes:
        idle: there and not needed.
        missing: needed and not there.
        num_short_steps: steps on which any was missing.
        num_steps: of the replay.
    """

    idle: int
    missing: int
    num_short_steps: int
    num_steps: int

    def cost(self, idle_cost: float, missing_cost: float) -> float:
        """Return what it costs altogether."""
        return self.idle * idle_cost + self.missing * missing_cost

    def __add__(self, other: ScalingCost) -> ScalingCost:
        """Return both together."""
        return ScalingCost(
            idle=self.idle + other.idle,
            missing=self.missing + other.missing,
            num_short_steps=self.num_short_steps + other.num_short_steps,
            num_steps=self.num_steps + other.num_steps,
        )


NOTHING = ScalingCost(idle=0, missing=0, num_short_steps=0, num_steps=0)


def replay(policy: ScalePolicy, before: Floats, came: Floats, futures: Floats | None) -> ScalingCost:
    """Return what ``policy`` would have cost.

    Args:
        policy: asked at each origin in turn.
        before: ``[steps]``, demand in replicas known at the first origin.
        came: ``[origins, horizon]``, demand in replicas; origins follow one another without a gap.
        futures: ``[origins, futures, horizon]``; ``None`` if nobody forecasts.
    """
    total, known, num_replicas = NOTHING, before, 0
    for origin, demands in enumerate(came):
        forecast = () if futures is None else tuple(map(tuple, futures[origin].tolist()))
        view = ScaleView(num_replicas=num_replicas, demands=tuple(known.tolist()), forecast=forecast)
        num_replicas = policy.decide(view)
        total, known = total + _held(num_replicas, demands), demands
    return total


def _held(num_replicas: int, demands: Floats) -> ScalingCost:
    """Return what holding so many replicas against ``demands`` costs."""
    gaps = num_replicas - np.ceil(demands).astype(int)
    return ScalingCost(
        idle=int(gaps[gaps > 0].sum()),
        missing=int(-gaps[gaps < 0].sum()),
        num_short_steps=int((gaps < 0).sum()),
        num_steps=len(gaps),
    )
