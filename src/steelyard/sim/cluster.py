"""What is simulated: groups of like replicas, how requests reach them, and what befalls them.

Plain frozen values; :mod:`steelyard.sim.cluster_file` reads them from TOML, planners make them in Python.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepModel
from steelyard.engine.config import EngineConfig
from steelyard.policies.registry import check_count, check_number
from steelyard.policies.route import make_route_policy
from steelyard.policies.schedule import make_schedule_policy
from steelyard.sim.conditions import Autoscale, Fault, PowerBudget, Priority

MAX_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGroup:
    """Replicas that are alike.

    Attributes:
        name: of the group, unique in its cluster; its replicas are ``name-0``, ``name-1``, …
        count: how many there are at the beginning.
        steps: what a step of one of them takes, and draws.
        engine: limits and sizes of each.
        schedule: the scheduling policy's name.
        schedule_options: the fields of that policy's config.
        capacity: how fast one is beside those of other groups, for routing.
        num_devices: of one replica, for reports.
        idle_watts: that the devices of one replica draw between steps.
        host_watts: that its host draws all along.
        priority: whose power is capped first, of ``low`` and ``high``.
        dollars_per_hour: of one replica; ``None`` if not known.

    Raises:
        InputError: if a value is out of range, or the policy unknown.
    """

    name: str
    count: int
    steps: StepModel
    engine: EngineConfig
    schedule: str = "fcfs"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    capacity: float = 1.0
    num_devices: int = 1
    idle_watts: float = 0.0
    host_watts: float = 0.0
    priority: Priority = Priority.LOW
    dollars_per_hour: float | None = None

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_count("num_devices", self.num_devices)
        check_number("capacity", self.capacity, above=0)
        make_schedule_policy(self.schedule, **self.schedule_options)
        try:
            Priority(self.priority)
        except ValueError:
            remedy = f"Use one of {', '.join(Priority)}"
            raise InputError(f"there is no {self.priority!r}", field="priority", remedy=remedy) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster.

    Attributes:
        groups: at least one, of different names.
        route: the routing policy's name.
        route_options: the fields of that policy's config.
        name: for reports.
        faults: what befalls machines.
        autoscalers: who adds and retires replicas, at most one per group.
        power: that all machines share; ``None`` for as much as they draw.

    Raises:
        InputError: if there is no group, two have the same name, or a fault or an autoscaler names what is not there.
        ParamsError: if the routing policy or one of its options is unknown.
    """

    groups: tuple[ReplicaGroup, ...]
    route: str = "least_loaded"
    route_options: Mapping[str, Any] = field(default_factory=dict)
    name: str = "cluster"
    faults: tuple[Fault, ...] = ()
    autoscalers: tuple[Autoscale, ...] = ()
    power: PowerBudget | None = None

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or len(set(names)) != len(names):
            problem = f"the groups are named {names}"
            raise InputError(problem, field="replicas", remedy="Give at least one group, each with its own name")
        make_route_policy(self.route, **self.route_options)
        self._check_conditions()

    def _check_conditions(self) -> None:
        groups = [group.name for group in self.groups]
        machines = [f"{group.name}-{index}" for group in self.groups for index in range(group.count)]
        for index, fault in enumerate(self.faults):
            check_known(fault.strike.machine, groups + machines, f"faults[{index}].machine")
        for index, one in enumerate(self.autoscalers):
            check_known(one.group, groups, f"autoscale[{index}].group")
            if one.group in [other.group for other in self.autoscalers[:index]]:
                problem = f"{one.group} has two"
                raise InputError(problem, field=f"autoscale[{index}].group", remedy="Give each group one at most")

    def with_policies(self, *, schedule: str | None = None, route: str | None = None) -> Cluster:
        """Return the cluster with another scheduling policy in all groups, another routing policy, or both.

        Raises:
            ParamsError: if there is no such policy.
        """
        changed = self
        if schedule is not None:
            groups = tuple(replace(group, schedule=schedule, schedule_options={}) for group in self.groups)
            changed = replace(changed, groups=groups)
        if route is not None:
            changed = replace(changed, route=route, route_options={})
        return changed


def check_known(name: str, known: Collection[str], where: str) -> None:
    """Raise ``InputError`` if ``name`` is not ``known``; it names the nearest that is."""
    if name not in known:
        near = get_close_matches(name, known, 1)
        remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(list(known)[:MAX_NAMED])}"
        raise InputError(f"there is no {name!r}", field=where, remedy=remedy)
