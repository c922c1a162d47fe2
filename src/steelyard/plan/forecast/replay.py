"""What scaling by a policy would have cost on a series: idle replicas, and missing ones.

At each origin the policy is shown what was demanded since the last one and, if somebody forecasts, possible futures;
its number of replicas then holds to the next origin. Replicas may take some steps to start, and cost like idle ones
meanwhile; they stop at once. What happens to requests is the simulator's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.plan.forecast.series import Floats, Ints
from steelyard.policies.scale.types import ScalePolicy, ScaleView


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCost:
    """What came of a replay; replicas times steps.

    Attributes:
        idle: paid, and not needed or not there yet.
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


def replay(
    policy: ScalePolicy, before: Floats, came: Floats, futures: Floats | None, cold_steps: int = 0
) -> ScalingCost:
    """Return what ``policy`` would have cost.

    Args:
        policy: asked at each origin in turn.
        before: ``[steps]``, demand in replicas known at the first origin.
        came: ``[origins, horizon]``, demand in replicas; origins follow one another without a gap.
        futures: ``[origins, futures, steps ahead]``, as many steps as the policy shall look ahead; ``None`` if nobody
            forecasts.
        cold_steps: that a replica takes to start.
    """
    known, decided = before, [0]
    for origin, demands in enumerate(came):
        forecast = () if futures is None else tuple(map(tuple, futures[origin].tolist()))
        decided.append(
            policy.decide(ScaleView(num_replicas=decided[-1], demands=tuple(known.tolist()), forecast=forecast))
        )
        known = demands
    return _cost(np.repeat(decided[1:], came.shape[1]), np.ceil(came.ravel()).astype(int), cold_steps)


def standing(paid: Ints, cold_steps: int, before: int) -> Ints:
    """Return how many replicas stand at each step, of ``paid`` ones that stand or start.

    One that takes ``cold_steps`` to start stands if it was paid in all of the steps before; ``before`` stood at first.
    """
    padded = np.concatenate([np.full(cold_steps, before), paid])
    least: Ints = np.lib.stride_tricks.sliding_window_view(padded, cold_steps + 1).min(axis=1)
    return least


def _cost(paid: Ints, needed: Ints, cold_steps: int) -> ScalingCost:
    missing = np.maximum(0, needed - standing(paid, cold_steps, int(paid[0])))
    return ScalingCost(
        idle=int(np.maximum(0, paid - needed).sum()),
        missing=int(missing.sum()),
        num_short_steps=int((missing > 0).sum()),
        num_steps=len(needed),
    )
