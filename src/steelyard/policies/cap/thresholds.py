"""Caps by thresholds with hysteresis: POLCA (S17), and what its paper compares it with.

POLCA caps servers of low priority a little above a first threshold; above a second one it caps them more, and those of
high priority a little. A cap is lifted when the power has fallen below a lower threshold of its own. The numbers are
the paper's for A100 (clocks of 1,275, 1,110 and 1,305 MHz of 1,410 MHz, brake to 288 MHz at the budget itself). The
comparisons with one threshold are described there in words only; here they use POLCA's second threshold and its
deepest cap, for servers of low priority or for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.core.errors import ParamsError
from steelyard.policies.cap.types import Caps
from steelyard.policies.registry import check_number

FULL_CLOCK_MHZ = 1410
_LOW_FIRST, _LOW_SECOND, _HIGH_SECOND = 1275 / FULL_CLOCK_MHZ, 1110 / FULL_CLOCK_MHZ, 1305 / FULL_CLOCK_MHZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Caps that hold from one threshold until the power has fallen below another.

    Attributes:
        above: power share from which they hold.
        below: power share under which they are lifted.
        low: share of the full clock for low priority.
        high: share of the full clock for high priority.

    Raises:
        ParamsError: if ``below`` is not lower than ``above``, or a clock is no share.
    """

    above: float
    below: float
    low: float
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number("below", self.below, above=0.0)
        if not self.below < self.above:
            problem = f"{self.below:g} is not lower than the threshold of {self.above:g}"
            raise ParamsError(problem, field="below", remedy="Lift the cap at a lower power than it is set at")
        for name, clock in (("low", self.low), ("high", self.high)):
            if not 0.0 < clock <= 1.0:
                problem = f"{clock:g} is no share of the full clock"
                raise ParamsError(problem, field=name, remedy="Give a number above 0 and at most 1")


@final
class ThresholdCaps:
    """A :class:`~steelyard.policies.cap.types.CapPolicy` of stages; where several hold, the lowest clocks count.

    Args:
        stages: in any order.
        brake_above: power share from which everything brakes, until no stage's threshold is passed any more.
    """

    def __init__(self, stages: tuple[Stage, ...], brake_above: float = 1.0) -> None:
        check_number("brake_above", brake_above, above=0.0)
        self._stages, self._brake_above = stages, brake_above
        self._release_below = min((stage.above for stage in stages), default=brake_above)
        self._held: frozenset[Stage] = frozenset()
        self._brake = False

    def __call__(self, power_share: float) -> Caps:
        """See :class:`~steelyard.policies.cap.types.CapPolicy`."""
        self._held = frozenset(
            stage
            for stage in self._stages
            if power_share >= stage.above or (stage in self._held and power_share >= stage.below)
        )
        self._brake = power_share >= self._brake_above or (self._brake and power_share >= self._release_below)
        return Caps(
            low=min((stage.low for stage in self._held), default=1.0),
            high=min((stage.high for stage in self._held), default=1.0),
            brake=self._brake,
        )


def make_polca(
    first: float = 0.80, second: float = 0.89, first_below: float = 0.75, second_below: float = 0.84
) -> ThresholdCaps:
    """Return POLCA; the defaults are the paper's thresholds."""
    return ThresholdCaps(
        (
            Stage(above=first, below=first_below, low=_LOW_FIRST),
            Stage(above=second, below=second_below, low=_LOW_SECOND, high=_HIGH_SECOND),
        )
    )


def make_one_threshold_low(threshold: float = 0.89, below: float = 0.84) -> ThresholdCaps:
    """Return the policy that caps low priority only, and at once deeply."""
    return ThresholdCaps((Stage(above=threshold, below=below, low=_LOW_SECOND),))


def make_one_threshold_all(threshold: float = 0.89, below: float = 0.84) -> ThresholdCaps:
    """Return the policy that caps all servers alike."""
    return ThresholdCaps((Stage(above=threshold, below=below, low=_LOW_SECOND, high=_LOW_SECOND),))


def make_no_cap() -> ThresholdCaps:
    """Return the policy that knows the brake only."""
    return ThresholdCaps(())
