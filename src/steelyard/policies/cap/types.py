"""What a power-capping policy sees and what it decides.

A row of servers shares a power budget that all of them together could exceed. The policy is told the row's power now
and then, and says at what share of their full clock servers may run, by the priority of what they serve. How late it is
told, and how late its word arrives, is the machines' matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How fast servers may run.

    Attributes:
        low: share of the full clock for servers of low priority, above 0 and at most 1.
        high: the same for servers of high priority.
        brake: whether all servers are to slow down at once, by the way that is quick and always works.
    """

    low: float = 1.0
    high: float = 1.0
    brake: bool = False


class CapPolicy(Protocol):
    """Decides how fast servers may run."""

    def __call__(self, power_share: float) -> Caps:
        """Return the caps from now on.

        Args:
            power_share: the row's power over its budget, 0 or more; above 1 the budget is exceeded.
        """
