"""What is simulated: groups of like replicas, how requests reach them, and what befalls them.

Plain frozen values; :mod:`steelyard.sim.cluster_file` reads them from TOML, planners make them in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepModel
from steelyard.engine.config import EngineConfig
from steelyard.policies.registry import check_count, check_number
from steelyard.policies.schedule import make_schedule_policy


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
        idle_watts: that one replica draws between steps.
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
    dollars_per_hour: float | None = None

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_count("num_devices", self.num_devices)
        check_number("capacity", self.capacity, above=0)
        make_schedule_policy(self.schedule, **self.schedule_options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster.

    Attributes:
        groups: at least one, of different names.
        route: the routing policy's name.
        route_options: the fields of that policy's config.
        name: for reports.

    Raises:
        InputError: if there is no group, or two have the same name.
    """

    groups: tuple[ReplicaGroup, ...]
    route: str = "least_loaded"
    route_options: Mapping[str, Any] = field(default_factory=dict)
    name: str = "cluster"

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or len(set(names)) != len(names):
            problem = f"the groups are named {names}"
            raise InputError(problem, field="replicas", remedy="Give at least one group, each with its own name")

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
