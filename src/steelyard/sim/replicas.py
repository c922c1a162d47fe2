"""A cluster's replicas in virtual time: how they come and go, how routing sees them, and what is noted of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from steelyard.core.clock import now_s, sleep_s
from steelyard.engine.engine import Engine
from steelyard.engine.executor import SyntheticTokens
from steelyard.fleet.dispatcher import Dispatcher
from steelyard.fleet.replica import EngineReplica
from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest
from steelyard.policies.schedule import STEADY_POLICIES, make_schedule_policy
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import LinkLoss
from steelyard.sim.fleet import Built, ModelledFleet
from steelyard.sim.link import Link
from steelyard.sim.machine import ModelledMachine
from steelyard.sim.prompts import VOCABULARY
from steelyard.sim.result import SECONDS_PER_HOUR, Event, EventKind, MachineRecord, Sample

_LOOK_S, _MAX_LOOKS = 1.0, 3600


@dataclass(slots=True)
class Life:
    """One replica from its start on, and what was noted of it when it was last looked at.

    Attributes:
        place: where it stands.
        group: of which group it is.
        built: its parts.
        preemptions: of its sequences.
        start_s: from when on it is paid for.
        end_s: when it died or was retired; ``None`` while it stands.
    """

    place: str
    group: ReplicaGroup
    built: Built[ModelledMachine]
    preemptions: CountedPreemptions
    start_s: float
    end_s: float | None = None
    slowdowns: list[float] = field(default_factory=list)
    seen_s: float = 0.0
    seen_busy_s: float = 0.0
    seen_joules: float = 0.0

    @property
    def name(self) -> str:
        """What it is called, by the dispatcher and in results."""
        return self.built.replica.id


@final
class ModelledReplicas:
    """All replicas of a cluster; to be made inside a running virtual loop.

    A place is called after its group (``h100-3``) and stays, whoever stands there; the first replica to do so has its
    name, further ones are ``h100-3.2``, ``h100-3.3``, …

    Args:
        cluster: what they are.
        coasts: whether machines take runs of equal decode steps at once.

    Attributes:
        samples: what :meth:`sample` saw.
        events: what happened to replicas, in the order of time.
    """

    def __init__(self, cluster: Cluster, *, coasts: bool) -> None:
        self._groups = {group.name: group for group in cluster.groups}
        self._places: list[tuple[str, ReplicaGroup]] = []
        self._by_name: dict[str, int] = {}
        self._standing: dict[str, Life] = {}
        for group in cluster.groups:
            for _ in range(group.count):
                self.add_place(group.name)
        self._num_first_places = len(self._places)
        self._cuttable = [fault.strike.machine for fault in cluster.faults if isinstance(fault, LinkLoss)]
        self._coasts = coasts
        self._lives: dict[str, Life] = {}
        self._tokens = SyntheticTokens(VOCABULARY)
        self._fleet: ModelledFleet[ModelledMachine] | None = None
        self._retiring: dict[asyncio.Task[None], None] = {}
        self.samples: list[Sample] = []
        self.events: list[Event] = []

    # -- places -----------------------------------------------------------------------------------------------------

    def start_all(self, dispatcher: Dispatcher) -> None:
        """Put a replica in every place; they join ``dispatcher``."""
        self._fleet = ModelledFleet(dispatcher, self._build)
        for place in range(self._num_first_places):
            self._fleet.start(place)

    def places(self, machine: str) -> tuple[str, ...]:
        """Return the place of that name, or all of the group of that name."""
        return tuple(place for place, group in self._places if machine in (place, group.name))

    def add_place(self, group: str) -> str:
        """Make an empty place for one more replica of a group."""
        index = sum(other.name == group for _, other in self._places)
        place = f"{group}-{index}"
        self._by_name[place] = len(self._places)
        self._places.append((place, self._groups[group]))
        return place

    def standing(self, place: str) -> Life | None:
        """Return who stands in a place and takes requests."""
        return self._standing.get(place)

    def standing_of(self, group: str) -> tuple[Life, ...]:
        """Return the replicas of a group that take requests, in the order of starting."""
        return tuple(life for life in self._standing.values() if life.group.name == group)

    # -- what happens to them ---------------------------------------------------------------------------------------

    def start(self, place: str, kind: EventKind, paid_from_s: float | None = None) -> None:
        """Put a fresh replica in an empty place.

        Args:
            place: where.
            kind: of event.
            paid_from_s: when it was ordered; ``None`` for now.
        """
        assert self._fleet is not None
        self._fleet.start(self._by_name[place])
        life = self._standing[place]
        if paid_from_s is not None:
            life.start_s = paid_from_s
        self.note(kind, life.name)

    async def kill(self, life: Life) -> None:
        """Let a replica that stands die in the middle of what it does."""
        assert self._fleet is not None
        del self._standing[life.place]
        await self._fleet.kill(self._by_name[life.place])
        life.end_s = now_s()
        self.note(EventKind.DIED, life.name)

    def retire(self, life: Life) -> None:
        """Give a replica nothing more; it leaves when it has finished what it has."""
        del self._standing[life.place]
        task = asyncio.get_running_loop().create_task(self._retire(life), name=f"retire {life.name}")
        self._retiring[task] = None

    def slow_down(self, life: Life, factor: float) -> None:
        """Let a replica's steps take ``factor`` times as long from the next one on."""
        life.slowdowns.append(factor)
        self._apply_slowdowns(life)
        self.note(EventKind.SLOW, life.name)

    def speed_up(self, life: Life, factor: float) -> None:
        """Undo :meth:`slow_down`."""
        life.slowdowns.remove(factor)
        self._apply_slowdowns(life)
        self.note(EventKind.NOT_SLOW, life.name)

    async def cut_off(self, life: Life) -> None:
        """Cut the way to a replica: what it has under way is lost, and nothing new reaches it."""
        link = life.built.replica
        assert isinstance(link, Link)
        life.built.engine.settle()
        await sleep_s(0.0)  # whoever reads along has what was computed before
        link.cut()
        self._tell_health(life)
        self.note(EventKind.CUT_OFF, life.name)

    def reconnect(self, life: Life) -> None:
        """Undo :meth:`cut_off`."""
        link = life.built.replica
        assert isinstance(link, Link)
        link.mend()
        self._tell_health(life)
        self.note(EventKind.RECONNECTED, life.name)

    def note(self, kind: EventKind, machine: str) -> None:
        """Note that something happens now."""
        self.events.append(Event(now_s(), machine, kind))

    # -- looking on -------------------------------------------------------------------------------------------------

    def routing(self, make: Callable[[], RoutePolicy]) -> RoutePolicy:
        """Return a policy that decides as those that are made, of loads without the tokens that a coast is past.

        Requests of a tenant that is called as a group go to that group, by a policy of their own.
        """
        policies = {lane: make() for lane in (None, *self._groups)}

        def choose(request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
            lane = request.tenant if request.tenant in self._groups else None
            if lane is None:
                return policies[lane](request, [self._seen_now(view) for view in replicas])
            own = [index for index, view in enumerate(replicas) if self._lives[view.id].group.name == lane]
            return own[policies[lane](request, [self._seen_now(replicas[index]) for index in own])]

        return choose

    def num_ongoing(self, group: str) -> dict[str, int]:
        """Return how many requests each standing replica of a group has and has not answered, in order of starting."""
        assert self._fleet is not None
        views = {view.id: view.num_outstanding_requests for view in self._fleet.dispatcher.views()}
        return {life.place: views[life.name] for life in self.standing_of(group)}

    def alive(self) -> tuple[Life, ...]:
        """Return all replicas that draw power, those that retire among them."""
        return tuple(life for life in self._lives.values() if life.end_s is None)

    def drawn_joules(self, life: Life) -> float:
        """Return what a replica drew so far, its host included."""
        return _progress(life, now_s())[1]

    def sample(self) -> None:
        """Look at every replica."""
        now = now_s()
        self.samples += [_sample(life, now) for life in self.alive()]

    def records(self) -> tuple[MachineRecord, ...]:
        """Return what is known of every replica that ever stood, up to now."""
        now = now_s()
        return tuple(_record(life, now) for life in self._lives.values())

    async def close(self) -> None:
        """Let everything end that is under way, check that nothing was lost or leaked, and close every engine."""
        assert self._fleet is not None
        for _ in range(_MAX_LOOKS):  # there may be a step under way whose answer nobody waits for
            if not any(life.built.engine.num_running for life in self._standing.values()):
                break
            await sleep_s(_LOOK_S)
        for task in self._retiring:
            await task
        self._fleet.check_idle()
        await self._fleet.close()

    def _build(self, place: int, name: str) -> Built[ModelledMachine]:
        at, group = self._places[place]
        machine = ModelledMachine(group.steps, self._tokens, rank=len(self._lives) + 1)
        policy = CountedPreemptions(make_schedule_policy(group.schedule, **group.schedule_options))
        coasts = self._coasts and group.schedule in STEADY_POLICIES
        engine = Engine(group.engine, machine, policy, vocab_size=VOCABULARY, coaster=machine if coasts else None)
        replica = EngineReplica(self._new_name(at), engine, group.capacity)
        is_cuttable = at in self._cuttable or group.name in self._cuttable
        built = Built(engine, machine, Link(replica) if is_cuttable else replica)
        self._lives[replica.id] = self._standing[at] = Life(at, group, built, policy, now_s())
        return built

    def _new_name(self, place: str) -> str:
        num_before = sum(life.place == place for life in self._lives.values())
        return f"{place}.{num_before + 1}" if num_before else place

    async def _retire(self, life: Life) -> None:
        assert self._fleet is not None
        await self._fleet.retire(self._by_name[life.place])
        life.end_s = now_s()
        self.note(EventKind.RETIRED, life.name)

    def _apply_slowdowns(self, life: Life) -> None:
        life.built.machine.set_slowdown(math.prod(life.slowdowns))

    def _tell_health(self, life: Life) -> None:
        assert self._fleet is not None
        assert isinstance(life.built.replica, Link)
        self._fleet.dispatcher.set_healthy(life.name, not life.built.replica.is_cut)

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


def _progress(life: Life, now: float) -> tuple[float, float]:
    """Return a replica's seconds in steps and all that it drew, between steps and by its host too."""
    life.built.engine.settle()
    busy_s, joules = life.built.machine.progress()
    life_s = now - life.start_s
    return busy_s, joules + max(0.0, life_s - busy_s) * life.group.idle_watts + life_s * life.group.host_watts


def _sample(life: Life, now: float) -> Sample:
    engine = life.built.engine
    busy_s, joules = _progress(life, now)
    gap_s = max(now - max(life.seen_s, life.start_s), 1e-12)
    gap_busy_s, gap_joules = busy_s - life.seen_busy_s, joules - life.seen_joules
    life.seen_s, life.seen_busy_s, life.seen_joules = now, busy_s, joules
    usage = engine.kv_usage
    return Sample(
        at_s=now,
        machine=life.name,
        num_running=engine.num_running,
        num_waiting=engine.num_waiting,
        kv_share=usage.num_referenced_blocks / usage.num_blocks,
        busy_share=min(1.0, gap_busy_s / gap_s),
        watts=gap_joules / gap_s,
    )


def _record(life: Life, now: float) -> MachineRecord:
    life.built.engine.settle()
    group, meter, usage = life.group, life.built.machine.meter, life.built.engine.kv_usage
    end_s = now if life.end_s is None else life.end_s
    life_s = end_s - life.start_s
    price = group.dollars_per_hour
    return MachineRecord(
        name=life.name,
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
        idle_joules=max(0.0, life_s - meter.busy_s) * group.idle_watts + life_s * group.host_watts,
        dollars=None if price is None else price * life_s / SECONDS_PER_HOUR,
    )
