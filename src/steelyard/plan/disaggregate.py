"""What instances serve within their objectives, asked of the simulator: for a phase each, or for both together.

:mod:`steelyard.plan.place` chooses among the answers. Every question is one bisection over request rates
(:mod:`steelyard.plan.goodput`), every step of it a simulation of requests drawn by the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.goodput import goodput
from steelyard.plan.phases import Instance, Limits, Link, Pool, serve_apart
from steelyard.plan.place import Group, Kind, Placement, kinds, place, split
from steelyard.sim.result import RequestRecord, Slo
from steelyard.sim.traces.synthetic import Lengths, SyntheticConfig, synthetic_trace
from steelyard.sim.traces.types import Trace, TraceRequest

_TOLERANCE = 0.05
_FOREVER_S = 1e12
_QUEUES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests and what counts as serving them well.

    Attributes:
        lengths: draws prompts and answers.
        slo: objective of a request: a time to the first token and one for each further token.
        share: of the requests that must be within it.
        count: requests per simulation, at least.
        duration_s: of a simulation's arrivals, at least: long enough for what is served to be what comes. The bound on
            the first token, ten times over, is the least in any case: what waits at the end is then a tenth.
        seed: of times and lengths.

    Raises:
        ParamsError: if one of the two bounds is missing: some rate must be too high for each phase.
    """

    lengths: Lengths
    slo: Slo
    share: float = 0.9
    count: int = 300
    duration_s: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if getattr(self.slo, name) is None:
                raise ParamsError("there is no bound", field=name, remedy="Give seconds above 0")

    def trace(self, rate_per_s: float) -> Trace:
        """Return the requests, coming by a Poisson process of this rate."""
        assert self.slo.ttft_s is not None
        duration_s = max(self.duration_s, _QUEUES * self.slo.ttft_s)
        count = max(self.count, math.ceil(rate_per_s * duration_s))
        config = SyntheticConfig(rate=rate_per_s, count=count, duration_s=_FOREVER_S)
        return synthetic_trace(config, self.lengths, self.seed)

    def is_met(self, records: Sequence[RequestRecord], slo: Slo | None = None) -> bool:
        """Whether enough requests were served within an objective, the workload's own by default."""
        return sum(map((slo or self.slo).holds, records)) >= self.share * len(records)

    def tightest(self, records: Sequence[RequestRecord]) -> float:
        """Return the factor by which both bounds may shrink (below 1) or must grow to be met; infinite if none does."""
        factors = sorted(map(self._needed, records))
        return factors[math.ceil(self.share * len(factors)) - 1]

    def _needed(self, record: RequestRecord) -> float:
        """Return by how much a request takes up the bounds, the one it takes up most."""
        assert self.slo.ttft_s is not None
        assert self.slo.tpot_s is not None
        if not record.is_done or record.ttft_s is None:
            return math.inf
        return max(record.ttft_s / self.slo.ttft_s, (record.tpot_s or 0.0) / self.slo.tpot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What all instances are asked.

    Attributes:
        workload: that they are to serve.
        limits: of every engine.
        link: from prompts to decodes.
    """

    workload: Workload
    limits: Limits
    link: Link

    def together(self, instance: Instance, schedule: str = "prefill_first") -> float:
        """Return requests per second of an instance that does both."""
        pool = self._pool(instance, schedule)
        return self._highest(lambda trace: self.workload.is_met(pool.serve(trace)))

    def prefill(self, instance: Instance) -> float:
        """Return first tokens per second within the objective for them."""
        slo, pool = Slo(ttft_s=self.workload.slo.ttft_s), self._pool(instance)
        return self._highest(lambda trace: self.workload.is_met(pool.prefill(trace), slo))

    def decode(self, instance: Instance) -> float:
        """Return answers per second within the objective for further tokens, the wait for a seat counted in."""
        pool = self._pool(instance)
        return self._highest(lambda trace: self._is_decode_met(pool, trace))

    def apart(self, placement: Placement[Instance, Instance], start_per_s: float | None = None) -> float:
        """Return requests per second of two pools, both objectives counted.

        Args:
            placement: of instances in their numbers.
            start_per_s: where the search begins; ``None`` for what the placement's phases promise.
        """
        serve = self._serve_apart(placement)
        start = placement.goodput_per_s if start_per_s is None else start_per_s
        return self._highest(lambda trace: self.workload.is_met(serve(trace)), start)

    def records_apart(self, placement: Placement[Instance, Instance], rate_per_s: float) -> list[RequestRecord]:
        """Return what becomes of requests at a rate where two pools serve them."""
        return self._serve_apart(placement)(self.workload.trace(rate_per_s))

    def _serve_apart(self, placement: Placement[Instance, Instance]) -> Callable[[Trace], list[RequestRecord]]:
        first, second = (
            replace(self._pool(group.kind.what), count=group.count) for group in (placement.prefill, placement.decode)
        )
        return lambda trace: serve_apart(trace, first, second, self.link)

    def _highest(self, is_met: Callable[[Trace], bool], start_per_s: float = 1.0) -> float:
        return goodput(lambda rate: is_met(self.workload.trace(rate)), start_per_s=start_per_s, tolerance=_TOLERANCE)

    def _is_decode_met(self, pool: Pool, trace: Trace) -> bool:
        bound = self.workload.slo.tpot_s
        assert bound is not None, "a workload has both bounds"
        rest = [
            TraceRequest(one.arrival_s, one.num_prompt_tokens + 1, one.num_output_tokens - 1)
            for one in trace.requests
            if one.num_output_tokens > 1
        ]
        waits = [self.link.seconds(one.num_prompt_tokens - 1) for one in rest]
        held = [
            one.e2e_s is not None and (one.e2e_s + wait) / one.num_output_tokens <= bound
            for one, wait in zip(pool.decode(rest), waits, strict=True)
        ]
        return sum(held) >= self.workload.share * len(held)

    def _pool(self, instance: Instance, schedule: str = "fcfs") -> Pool:
        return Pool(instance=instance, count=1, limits=self.limits, schedule=schedule)


def within(lengths: Lengths, limits: Limits) -> Lengths:
    """Return lengths cut to what an engine takes: at most nine tenths for the prompt, the rest for the answer."""
    longest = limits.max_model_len * 9 // 10

    def draw(rng: Random) -> tuple[int, int]:
        prompt, output = lengths(rng)
        prompt = min(prompt, longest)
        return prompt, min(output, limits.max_model_len - prompt)

    return draw


def pools(prefill: Instance, decode: Instance, counts: tuple[int, int]) -> Placement[Instance, Instance]:
    """Return given instances in given numbers, what they serve not known."""
    groups = [
        Group(kind=Kind(what=one, price=one.price, goodput_per_s=math.nan), count=count)
        for one, count in zip((prefill, decode), counts, strict=True)
    ]
    return Placement(prefill=groups[0], decode=groups[1], runners_up=(None, None))


def place_anywhere(
    question: Question, rate_per_s: float, prefill: Sequence[Instance], decode: Sequence[Instance]
) -> Placement[Instance, Instance]:
    """Return the best pools where links carry keys and values between any two devices (DistServe's algorithm 1).

    Raises:
        InputError: if no instance of a phase meets its objective.
    """
    return place(rate_per_s, _kinds(prefill, question.prefill), _kinds(decode, question.decode))


def place_in_machine(
    question: Question, devices: int, prefill: Sequence[Instance], decode: Sequence[Instance]
) -> Placement[Instance, Instance]:
    """Return the best pools where only the links within a machine are fast enough (DistServe's algorithm 2).

    Both phases of the same layers share a machine: either both instances fit into one, or they have equally many
    stages, and a machine holds the same stages of both. It holds one kind for each phase, in the numbers that serve
    most.

    Args:
        question: what to ask.
        devices: of a machine, each with the price 1.
        prefill: what may compute prompts; its price is its number of devices.
        decode: what may compute the rest, likewise.

    Raises:
        InputError: if no instance of a phase meets its objective, or none of both fits.
    """
    first, second = _kinds(prefill, question.prefill), _kinds(decode, question.decode)
    place(1.0, first, second)  # says which phase cannot be served
    able = [(one, other) for one in first for other in second if one.goodput_per_s > 0 and other.goodput_per_s > 0]
    pairs = [(_room(devices, one.what, other.what), one, other) for one, other in able]
    fitting = [split(room, one, other) for room, one, other in pairs if one.price + other.price <= room]
    if not fitting:
        least = min(one.price + other.price for _, one, other in pairs)
        problem = f"the phases share no machine of {devices} devices; the smallest pair that meets both takes {least:g}"
        raise InputError(
            problem, field="devices", remedy="Allow larger machines, or use a network that reaches further"
        )
    return max(fitting, key=lambda found: found.goodput_per_s / found.price)


def _room(devices: int, prefill: Instance, decode: Instance) -> int:
    """Return the devices of the machines that a pair spans: one for each stage if stages can be paired."""
    return devices * (prefill.stages if prefill.stages == decode.stages else 1)


def _kinds(instances: Sequence[Instance], goodput_per_s: Callable[[Instance], float]) -> list[Kind[Instance]]:
    return kinds(instances, lambda instance: instance.price, goodput_per_s)
