"""Under which conditions a cluster works while a trace is simulated: faults, autoscalers, a power budget.

Plain frozen values, like :mod:`steelyard.sim.cluster`; :mod:`steelyard.sim.faults`, :mod:`steelyard.sim.autoscale` and
:mod:`steelyard.sim.power` let them come true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from steelyard.core.errors import ParamsError
from steelyard.policies.cap import make_cap_policy
from steelyard.policies.registry import check_number
from steelyard.policies.scale import make_scale_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """Where and when a fault strikes.

    Attributes:
        machine: a machine's name, such as ``h100-3``, or a group's for all of it.
        at_s: once, at that moment; ``None`` for again and again.
        mtbf_s: mean time from being whole to the next fault, for each machine by itself; ``None`` for once. Times are
            distributed exponentially.

    Raises:
        ParamsError: if not exactly one of the times is given, or it is out of range.
    """

    machine: str
    at_s: float | None = None
    mtbf_s: float | None = None

    def __post_init__(self) -> None:
        if (self.at_s is None) == (self.mtbf_s is None):
            problem = "it is not told when" if self.at_s is None else "it is told twice when"
            raise ParamsError(problem, field="at_s", remedy="Give one of at_s and mtbf_s")
        if self.at_s:
            check_number("at_s", self.at_s, above=0)
        if self.mtbf_s is not None:
            check_number("mtbf_s", self.mtbf_s, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A machine dies with all that it has; answers go on elsewhere.

    Attributes:
        strike: where and when.
        repair_s: until a fresh one stands there, its cache empty; ``None`` for never.

    Raises:
        ParamsError: if a value is out of range.
    """

    strike: Strike
    repair_s: float | None = None

    def __post_init__(self) -> None:
        if self.repair_s is not None:
            check_number("repair_s", self.repair_s, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowness:
    """A machine takes longer for its steps, from the next one on; where several such spells meet, they multiply.

    Attributes:
        strike: where and when.
        for_s: how long it lasts.
        factor: how many times as long a step takes, above 0.

    Raises:
        ParamsError: if a value is out of range.
    """

    strike: Strike
    for_s: float
    factor: float

    def __post_init__(self) -> None:
        check_number("for_s", self.for_s, above=0)
        check_number("factor", self.factor, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoss:
    """The router cannot reach a machine for a while; answers go on elsewhere, and the machine keeps its cache.

    Attributes:
        strike: where and when.
        for_s: how long it lasts.

    Raises:
        ParamsError: if a value is out of range.
    """

    strike: Strike
    for_s: float

    def __post_init__(self) -> None:
        check_number("for_s", self.for_s, above=0)


Fault = Death | Slowness | LinkLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """Who decides how many replicas a group has.

    Demand is the number of requests that the group's replicas have and have not answered, divided by how many one of
    them is to have at a time.

    Attributes:
        group: whose replicas it starts and retires; its ``count`` is how many there are at the beginning.
        policy: the scaling policy's name.
        options: the fields of that policy's config.
        target_ongoing_requests: of one replica, above 0.
        every_s: between two decisions.
        look_every_s: between two looks at the demand.
        cold_start_s: from the decision until a new replica takes requests; it is paid for and draws power meanwhile.

    Raises:
        ParamsError: if a value is out of range, or the policy unknown.
    """

    group: str
    target_ongoing_requests: float
    policy: str = "reactive"
    options: Mapping[str, Any] = field(default_factory=dict)
    every_s: float = 60.0
    look_every_s: float = 10.0
    cold_start_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("target_ongoing_requests", "every_s", "look_every_s"):
            check_number(name, getattr(self, name), above=0)
        if self.cold_start_s:
            check_number("cold_start_s", self.cold_start_s, above=0)
        if self.look_every_s > self.every_s:
            problem = f"{self.look_every_s:g} s is longer than the {self.every_s:g} s between decisions"
            raise ParamsError(problem, field="look_every_s", remedy="Look at least once between two decisions")
        make_scale_policy(self.policy, **self.options)


class Priority(StrEnum):
    """Of what a group serves, when power is short."""

    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerBudget:
    """What all machines together may draw, and who sees to it (S17, POLCA).

    Delays are those of the paper as we remember it: telemetry every two seconds, caps by way of the management network
    after some forty, the brake within five. The brake's clock is an A100's lowest, 288 of 1,410 MHz.

    Attributes:
        watts: of the row.
        policy: the capping policy's name.
        options: the fields of that policy's config.
        every_s: between two looks at the power.
        cap_delay_s: from a decision until clocks change.
        brake_delay_s: from a decision until the brake holds, or lets go.
        brake_clock_share: of the full clock, while braked.

    Raises:
        ParamsError: if a value is out of range, or the policy unknown.
    """

    watts: float
    policy: str = "polca"
    options: Mapping[str, Any] = field(default_factory=dict)
    every_s: float = 2.0
    cap_delay_s: float = 40.0
    brake_delay_s: float = 5.0
    brake_clock_share: float = 288 / 1410

    def __post_init__(self) -> None:
        check_number("watts", self.watts, above=0)
        check_number("every_s", self.every_s, above=0)
        for name in ("cap_delay_s", "brake_delay_s"):
            if getattr(self, name):
                check_number(name, getattr(self, name), above=0)
        if not 0 < self.brake_clock_share <= 1:
            problem = f"{self.brake_clock_share!r} is no share of the full clock"
            raise ParamsError(problem, field="brake_clock_share", remedy="Give a number above 0, at most 1")
        make_cap_policy(self.policy, **self.options)
