"""Power of a device in a step: by what of its memory and arithmetic is in use, and at which clock.

``peak · min(1, active + memory · m + compute · c)``, where m and c are the shares of the peak bandwidth and rate that
the step uses. The three shares are least squares over what Splitwise's authors measured on A100s (S19; 44 prompts and
28 decodes of two models on 2, 4 and 8 devices): 5 % median error, at most 21 % for nine of ten. They are taken to hold
for other devices, too. Below the full clock, what is above idling falls as the clock to a power: between 1 (voltage
stays) and 3 (voltage falls as the clock does, P ~ V² f).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.core.errors import InputError
from steelyard.hardware.catalogue.types import CatalogueDevice

ACTIVE_SHARE = 0.34
MEMORY_SHARE = 0.60
COMPUTE_SHARE = 1.38
# A100s give up a fifth of their power at 1110 of 1410 MHz (POLCA, S17; that the two belong together is our reading).
CLOCK_EXPONENT = 1.12
# Where the catalogue knows no idle power: 60 of an A100's 400 W.
IDLE_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """One device's power.

    Attributes:
        peak_watts: that it may draw.
        idle_watts: without work.
        clock_exponent: of the clock in what is above idling.

    Raises:
        InputError: if idling is not between nothing and the peak, or the exponent not from 1 to 3.
    """

    peak_watts: float
    idle_watts: float
    clock_exponent: float = CLOCK_EXPONENT

    def __post_init__(self) -> None:
        if not 0 <= self.idle_watts < self.peak_watts < math.inf:
            problem = f"{self.idle_watts} W of {self.peak_watts} W cannot be"
            raise InputError(problem, field="idle_watts", remedy="Give less than the peak, and no negative power")
        if not 1 <= self.clock_exponent <= 3:
            problem = f"{self.clock_exponent} is not from 1 to 3"
            raise InputError(problem, field="clock_exponent", remedy="Give 1 if the voltage stays")

    def watts(self, memory_use: float, compute_use: float, clock_share: float = 1.0) -> float:
        """Return the power of a device that works.

        Args:
            memory_use: share of its peak bandwidth, 0 to 1.
            compute_use: share of the peak rate that it has at this clock, 0 to 1.
            clock_share: of its full clock, above 0 and at most 1.
        """
        share = min(1.0, ACTIVE_SHARE + MEMORY_SHARE * memory_use + COMPUTE_SHARE * compute_use)
        above = max(0.0, self.peak_watts * share - self.idle_watts)
        return self.idle_watts + above * math.pow(clock_share, self.clock_exponent)


def power_model(device: CatalogueDevice) -> PowerModel | None:
    """Return a device's power; ``None`` if its peak is not known."""
    if device.peak_watts is None:
        return None
    idle = device.idle_watts if device.idle_watts is not None else IDLE_SHARE * device.peak_watts
    return PowerModel(peak_watts=device.peak_watts, idle_watts=idle)
