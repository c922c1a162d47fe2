"""Where prefill and decode go for a workload: :func:`plan_place` (S53 DistServe, S19 Splitwise).

Every instance is simulated with each phase and with both; the best of each phase make the pools, which are simulated
once more as a whole. Beside them stands what as much money, as many devices or watts serve with the phases together,
simulated as a whole too: many instances even out what comes, which one alone cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from steelyard.core.errors import InputError
from steelyard.plan.disaggregate import Question, place_in_machine
from steelyard.plan.phase_instances import Scarce
from steelyard.plan.phases import Instance
from steelyard.plan.place import Group, Kind, Placement, kinds, place
from steelyard.sim.result import Slo

_IDLE_PER_S = 1e-3
_ROUNDING = 1e-9
_BEYOND = 1.2
_CLOSE = 0.8
"""Instances for both phases with so much of the best one's value, alone, are tried in numbers."""


class Affinity(Enum):
    """How far keys and values may go: between any two machines, or within one."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceJob:
    """What to place.

    Attributes:
        question: workload, limits and link.
        instances: to choose from for both phases; where affinity is low, all of one device.
        affinity: of the network.
        machine_devices: of one machine; for low affinity.
        rate_per_s: that must be served; for high affinity, where pools are as large as that needs.
        scarce: what prices count.
    """

    question: Question
    instances: Sequence[Instance]
    affinity: Affinity
    machine_devices: int
    rate_per_s: float
    scarce: Scarce = Scarce.DEVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Like instances that each do both phases.

    Attributes:
        group: the kind, and as many as cost no more than the pools, one at least.
        goodput_per_s: of all of them, simulated as a whole.
    """

    group: Group[Instance]
    goodput_per_s: float

    @property
    def value(self) -> float:
        """Goodput per unit of price."""
        return self.goodput_per_s / self.group.price


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacePlan:
    """Where the phases go.

    Attributes:
        job: what was placed.
        prefill: every instance by its first tokens per second, the best value first.
        decode: likewise by answers per second.
        together: likewise, with both phases.
        placement: the pools.
        goodput_per_s: of the pools, simulated as a whole.
        beside: the most that instances for both phases serve for the pools' price; ``None`` if none meets both bounds.
        held: a little beyond that rate, the shares of requests within the bound on the first token, and on the others.
    """

    job: PlaceJob
    prefill: Sequence[Kind[Instance]]
    decode: Sequence[Kind[Instance]]
    together: Sequence[Kind[Instance]]
    placement: Placement[Instance, Instance]
    goodput_per_s: float
    beside: Together | None
    held: tuple[float, float]

    @property
    def value(self) -> float:
        """Goodput of the pools per unit of price."""
        return self.goodput_per_s / self.placement.price

    @property
    def gain(self) -> float | None:
        """The pools' value over that of instances for both phases at their price; ``None`` if there are none."""
        return None if self.beside is None else self.value / self.beside.value


def plan_place(job: PlaceJob) -> PlacePlan:
    """Return the best pools for a job.

    Raises:
        InputError: if no instance fits, or none meets a bound (it says which bound the quickest would meet), or no
            pair of instances shares a machine and must.
    """
    if not job.instances:
        raise InputError("no instance holds the model and a context", field="model", remedy="Allow more devices each")
    asked = job.question
    prefill = _rated(job, asked.prefill)
    if not prefill[0].goodput_per_s > 0:
        raise _unmet(job, "ttft", asked.prefill_ttft_s)
    decode = _rated(job, asked.decode)
    if not decode[0].goodput_per_s > 0:
        raise _unmet(job, "tpot", asked.decode_tpot_s)
    together = _rated(job, asked.together)
    if job.affinity is Affinity.HIGH:
        placement = place(job.rate_per_s, prefill, decode)
    else:
        placement = place_in_machine(job.machine_devices, prefill, decode)
    goodput_per_s = asked.apart(placement)
    held = _held(asked, placement, _BEYOND * max(goodput_per_s, _IDLE_PER_S))
    return PlacePlan(
        job=job,
        prefill=prefill,
        decode=decode,
        together=together,
        placement=placement,
        goodput_per_s=goodput_per_s,
        beside=_beside(asked, placement.price, together),
        held=held,
    )


def place_reasons(plan: PlacePlan) -> list[str]:
    """Return why the plan is the best, in sentences."""
    return list(_reasons(plan))


def _reasons(plan: PlacePlan) -> Iterator[str]:
    unit = plan.job.scarce.value
    for phase, ordered in (("Prompts", plan.prefill), ("Decodes", plan.decode)):
        chosen = (plan.placement.prefill if phase == "Prompts" else plan.placement.decode).kind
        other = next((kind for kind in ordered if kind is not chosen and kind.goodput_per_s > 0), None)
        beside = "no other meets the bound" if other is None else f"beside it {other.what.name} with {other.value:.3g}"
        yield f"{phase} on {chosen.what.name}: {chosen.value:.3g} requests/s per {unit}; {beside}"
    slower = plan.placement.prefill if _prefill_is_slower(plan) else plan.placement.decode
    phase = "prefill" if slower is plan.placement.prefill else "decode"
    yield f"The pool for {phase} is the slower one: {slower.goodput_per_s:.3g} requests/s alone"
    first, further = plan.held
    bound = "TTFT" if first < further else "TPOT"
    yield (
        f"{bound} binds: at {_BEYOND:g} times the goodput {100 * first:.0f} % keep to the bound on the first token, "
        f"{100 * further:.0f} % to that on the others"
    )
    if plan.beside is None or plan.gain is None:
        yield "With both phases on one instance none meets both bounds"
    else:
        advice = "apart is better" if plan.gain > 1 else "keep the phases together"
        group = plan.beside.group
        yield (
            f"Together, {group.count} × {group.kind.what.name} serve {plan.beside.value:.3g} per {unit}: {advice} "
            f"({plan.gain:.2f}×)"
        )


def _beside(asked: Question, price: float, together: Sequence[Kind[Instance]]) -> Together | None:
    """Return what serves most per price with both phases together, of instances for as much as ``price``."""
    close = [kind for kind in together if kind.value > 0 and kind.value >= _CLOSE * together[0].value]
    groups = [Group(kind=kind, count=max(1, int(price / kind.price + _ROUNDING))) for kind in close]
    found = [Together(group=one, goodput_per_s=asked.together_in(one)) for one in groups]
    return max(found, key=lambda one: one.value, default=None)


def _rated(job: PlaceJob, goodput_per_s: Callable[[Instance], float]) -> list[Kind[Instance]]:
    return kinds(job.instances, lambda instance: instance.price, goodput_per_s)


def _unmet(job: PlaceJob, bound: str, times_s: Callable[[Instance, float], list[float]]) -> InputError:
    """Return the error of a bound that no instance meets; it names the nearest that one does, on an idle machine."""
    workload = job.question.workload
    nearest = {one.name: _share_within(times_s(one, _IDLE_PER_S), workload.share) for one in job.instances}
    name, seconds = min(nearest.items(), key=lambda pair: pair[1])
    problem = f"no instance keeps {100 * workload.share:g} % of the requests within it, idle as it may be"
    if math.isinf(seconds):
        return InputError(problem, field=bound, remedy="Allow more devices per instance, or shorter requests")
    return InputError(problem, field=bound, remedy=f"Allow {seconds:.3g} s at least: {name} reaches that")


def _share_within(times_s: Sequence[float], share: float) -> float:
    """Return the time that a share of all keep within."""
    return sorted(times_s)[math.ceil(share * len(times_s)) - 1]


def _held(asked: Question, placement: Placement[Instance, Instance], rate_per_s: float) -> tuple[float, float]:
    records, slo = asked.records_apart(placement, rate_per_s), asked.workload.slo
    bounds = (Slo(ttft_s=slo.ttft_s), Slo(tpot_s=slo.tpot_s))
    first, further = (sum(map(bound.holds, records)) / len(records) for bound in bounds)
    return first, further


def _prefill_is_slower(plan: PlacePlan) -> bool:
    return plan.placement.prefill.goodput_per_s <= plan.placement.decode.goodput_per_s
