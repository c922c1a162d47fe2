"""A power budget kept to while a trace is simulated: look at the row's power, ask a capping policy, turn clocks down.

The policies are those of :mod:`steelyard.policies.cap`. What they decide takes effect late, as it does where clocks are
set over a management network; machines that come later take the clock that holds for their priority at the next look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import final

from steelyard.core.clock import now_s, sleep_s
from steelyard.policies.cap import make_cap_policy
from steelyard.policies.cap.types import Caps
from steelyard.sim.conditions import PowerBudget, Priority
from steelyard.sim.replicas import ModelledReplicas
from steelyard.sim.result import EventKind, PowerRecord

ROW = "row"
"""What events call all machines together."""


@final
class PowerKeeper:
    """Keeps all machines within a budget, as well as its policy and the delays let it.

    Args:
        budget: how.
    """

    def __init__(self, budget: PowerBudget) -> None:
        self._budget = budget
        self._policy = make_cap_policy(budget.policy, **budget.options)
        self._told = Caps()  # the latest decision
        self._clocks = Caps()  # what holds of it
        self._braked = False
        self._seen: dict[str, float] = {}
        self._shares: list[float] = []
        self._capped_s = dict.fromkeys(Priority, 0.0)
        self._num_brakes = 0

    async def run(self, replicas: ModelledReplicas) -> None:
        """Look and decide until cancelled."""
        due: deque[asyncio.TimerHandle] = deque()
        loop, every_s = asyncio.get_running_loop(), self._budget.every_s
        try:
            while True:
                await sleep_s(every_s)
                share = self._watts(replicas) / self._budget.watts
                self._note(share)
                caps, told = self._policy(share), self._told
                self._told = caps
                if (caps.low, caps.high) != (told.low, told.high):
                    due.append(loop.call_later(self._budget.cap_delay_s, self._set_clocks, replicas, caps))
                if caps.brake != told.brake:
                    due.append(loop.call_later(self._budget.brake_delay_s, self._set_brake, replicas, caps.brake))
                while due and due[0].when() <= now_s():
                    due.popleft()
                self._apply(replicas)
        finally:
            for timer in due:
                timer.cancel()

    def record(self) -> PowerRecord:
        """Return how the budget was kept to so far."""
        shares = self._shares
        return PowerRecord(
            watts=self._budget.watts,
            peak_share=max(shares, default=0.0),
            mean_share=sum(shares) / len(shares) if shares else 0.0,
            num_brakes=self._num_brakes,
            low_capped_s=self._capped_s[Priority.LOW],
            high_capped_s=self._capped_s[Priority.HIGH],
        )

    def _watts(self, replicas: ModelledReplicas) -> float:
        """Return the mean power since the last look; what left between two looks is not seen."""
        before, self._seen = self._seen, {}
        drawn = 0.0
        for life in replicas.alive():
            joules = replicas.drawn_joules(life)
            drawn += joules - before.get(life.name, 0.0)
            self._seen[life.name] = joules
        return drawn / self._budget.every_s

    def _note(self, share: float) -> None:
        self._shares.append(share)
        for priority in Priority:
            if self._clock(priority) < 1.0:
                self._capped_s[priority] += self._budget.every_s

    def _clock(self, priority: Priority) -> float:
        capped = self._clocks.low if priority is Priority.LOW else self._clocks.high
        return min(capped, self._budget.brake_clock_share) if self._braked else capped

    def _set_clocks(self, replicas: ModelledReplicas, caps: Caps) -> None:
        self._clocks = caps
        is_full = caps.low == caps.high == 1.0
        replicas.note(EventKind.FULL_CLOCK if is_full else EventKind.CAPPED, ROW)
        self._apply(replicas)

    def _set_brake(self, replicas: ModelledReplicas, braked: bool) -> None:
        self._braked = braked
        self._num_brakes += braked
        replicas.note(EventKind.BRAKED if braked else EventKind.RELEASED, ROW)
        self._apply(replicas)

    def _apply(self, replicas: ModelledReplicas) -> None:
        for life in replicas.alive():
            life.built.machine.set_clock_share(self._clock(Priority(life.group.priority)))
