"""A cluster's replicas in virtual time: how they are made, how routing sees them, and what is noted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from steelyard.core.clock import now_s
from steelyard.engine.engine import Engine
from steelyard.engine.executor import SyntheticTokens
from steelyard.fleet.dispatcher import Dispatcher
from steelyard.fleet.replica import EngineReplica
from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest
from steelyard.policies.schedule import STEADY_POLICIES, make_schedule_policy
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.fleet import Built, ModelledFleet
from steelyard.sim.machine import ModelledMachine
from steelyard.sim.prompts import VOCABULARY
from steelyard.sim.result import MachineRecord, Sample

SECONDS_PER_HOUR = 3600.0


@dataclass(slots=True)
class _Life:
    """One replica from its start on, and what was noted of it when it was last looked at."""

    group: ReplicaGroup
    built: Built[ModelledMachine]
    preemptions: CountedPreemptions
    start_s: float
    end_s: float | None = None
    seen_s: float = 0.0
    seen_busy_s: float = 0.0
    seen_joules: float = 0.0


@final
class ModelledReplicas:
    """All replicas of a cluster; to be made inside a running virtual loop.

    Args:
        cluster: what they are.
        coasts: whether machines take runs of equal decode steps at once.

    Attributes:
        samples: what :meth:`sample` saw.
    """

    def __init__(self, cluster: Cluster, *, coasts: bool) -> None:
        self._places = [(group, index) for group in cluster.groups for index in range(group.count)]
        self._coasts = coasts
        self._lives: dict[str, _Life] = {}
        self._tokens = SyntheticTokens(VOCABULARY)
        self._fleet: ModelledFleet[ModelledMachine] | None = None
        self.samples: list[Sample] = []

    def start_all(self, dispatcher: Dispatcher) -> None:
        """Put a replica in every place; they join ``dispatcher``."""
        self._fleet = ModelledFleet(dispatcher, self._build)
        for place in range(len(self._places)):
            self._fleet.start(place)

    def up_to_date(self, policy: RoutePolicy) -> RoutePolicy:
        """Return a policy that decides as ``policy`` does, of loads without the tokens that a coast is past."""

        def choose(request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
            return policy(request, [self._seen_now(view) for view in replicas])

        return choose

    def sample(self) -> None:
        """Look at every replica."""
        now = now_s()
        self.samples += [_sample(life, now) for life in self._lives.values() if life.end_s is None]

    def records(self) -> tuple[MachineRecord, ...]:
        """Return what is known of every replica that ever stood, up to now."""
        now = now_s()
        return tuple(_record(life, now) for life in self._lives.values())

    async def close(self) -> None:
        """Check that nothing was lost or leaked, and close every engine."""
        assert self._fleet is not None
        self._fleet.check_idle()
        await self._fleet.close()

    def _build(self, place: int, name: str) -> Built[ModelledMachine]:
        group, index = self._places[place]
        machine = ModelledMachine(group.steps, self._tokens, rank=len(self._lives) + 1)
        policy = CountedPreemptions(make_schedule_policy(group.schedule, **group.schedule_options))
        coasts = self._coasts and group.schedule in STEADY_POLICIES
        engine = Engine(group.engine, machine, policy, vocab_size=VOCABULARY, coaster=machine if coasts else None)
        replica = EngineReplica(f"{group.name}-{index}", engine, group.capacity)
        built = Built(engine, machine, replica)
        self._lives[replica.id] = _Life(group, built, policy, now_s())
        return built

    def _seen_now(self, view: ReplicaView) -> ReplicaView:
        unseen = self._lives[view.id].built.machine.num_unseen_tokens
        return replace(view, num_outstanding_tokens=view.num_outstanding_tokens - unseen) if unseen else view


@final
class CountedPreemptions:
    """Decides as the policy it is put around, and counts whom it preempts.

    Attributes:
        count: so far.
    """

    def __init__(self, policy: SchedulePolicy) -> None:
        self._policy = policy
        self.count = 0

    def __call__(self, view: SchedulerView) -> Schedule:
        """See :class:`~steelyard.policies.schedule.types.SchedulePolicy`."""
        schedule = self._policy(view)
        self.count += len(schedule.preempt)
        return schedule


def _sample(life: _Life, now: float) -> Sample:
    engine, meter = life.built.engine, life.built.machine.meter
    engine.settle()
    gap_s = max(now - max(life.seen_s, life.start_s), 1e-12)
    busy_s, joules = meter.busy_s - life.seen_busy_s, meter.joules - life.seen_joules
    life.seen_s, life.seen_busy_s, life.seen_joules = now, meter.busy_s, meter.joules
    usage = engine.kv_usage
    return Sample(
        at_s=now,
        machine=life.built.replica.id,
        num_running=engine.num_running,
        num_waiting=engine.num_waiting,
        kv_share=usage.num_referenced_blocks / usage.num_blocks,
        busy_share=min(1.0, busy_s / gap_s),
        watts=(joules + max(0.0, gap_s - busy_s) * life.group.idle_watts) / gap_s,
    )


def _record(life: _Life, now: float) -> MachineRecord:
    life.built.engine.settle()
    group, meter, usage = life.group, life.built.machine.meter, life.built.engine.kv_usage
    end_s = now if life.end_s is None else life.end_s
    life_s = end_s - life.start_s
    price = group.dollars_per_hour
    return MachineRecord(
        name=life.built.replica.id,
        group=group.name,
        start_s=life.start_s,
        end_s=end_s,
        num_steps=meter.num_steps,
        busy_s=meter.busy_s,
        num_prefill_tokens=meter.num_prefill_tokens,
        num_decode_tokens=meter.num_decode_tokens,
        num_preemptions=life.preemptions.count,
        num_hit_tokens=usage.num_hit_tokens,
        num_miss_tokens=usage.num_miss_tokens,
        busy_joules=meter.joules,
        idle_joules=max(0.0, life_s - meter.busy_s) * group.idle_watts,
        dollars=None if price is None else price * life_s / SECONDS_PER_HOUR,
    )
