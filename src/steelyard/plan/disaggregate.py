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
from steelyard.plan.place import Group, Kind, Placement, split
from steelyard.sim.result import RequestRecord, Slo
from steelyard.sim.traces.synthetic import Lengths, SyntheticConfig, synthetic_trace
from steelyard.sim.traces.types import Trace, TraceRequest

_TOLERANCE = 0.05
_NEAR = 1.2
"""What several instances serve beside several times what one does: not much more."""
_FOREVER_S = 1e12
_QUEUES = 10
_STAYS = 4
_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests and what counts as serving them well.

    Attributes:
        lengths: draws prompts and answers.
        slo: objective of a request: a time to the first token and one for each further token.
        share: of the requests that must be within it.
        count: requests per simulation, at least.
        duration_s: of a simulation's arrivals, at least. What has queued up, or runs, at the end must be little beside
            what came: ten times the bound on the first token, and four mean answers as slow as the other bound allows,
            are the least in any case.
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
        count = max(self.count, math.ceil(rate_per_s * self._simulated_s()))
        config = SyntheticConfig(rate=rate_per_s, count=count, duration_s=_FOREVER_S)
        return synthetic_trace(config, self.lengths, self.seed)

    def _simulated_s(self) -> float:
        assert self.slo.ttft_s is not None
        assert self.slo.tpot_s is not None
        rng = Random(f"{self.seed}/mean answer")
        mean_answer = sum(self.lengths(rng)[1] for _ in range(_DRAWS)) / _DRAWS
        return max(self.duration_s, _QUEUES * self.slo.ttft_s, _STAYS * mean_answer * self.slo.tpot_s)

    def is_met(self, records: Sequence[RequestRecord], slo: Slo | None = None) -> bool:
        """Whether enough requests were served within an objective, the workload's own by default."""
        return sum(map((slo or self.slo).holds, records)) >= self.share * len(records)

    def tightest(self, records: Sequence[RequestRecord]) -> float:
        """Return the factor by which both bounds may shrink (below 1) or must grow to be met; infinite if none does."""
        factors = sorted(map(self._factor, records))
        return factors[math.ceil(self.share * len(factors)) - 1]

    def _factor(self, record: RequestRecord) -> float:
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

    def together(self, instance: Instance, schedule: str = "prefill_first", count: int = 1) -> float:
        """Return requests per second of so many instances that each do both."""
        pool = replace(self._pool(instance, schedule), count=count)
        return self._highest(lambda trace: self.workload.is_met(pool.serve(trace)))

    def together_in(self, group: Group[Instance]) -> float:
        """Return requests per second of instances that each do both, what one of them serves being known."""
        if group.count == 1:
            return group.kind.goodput_per_s
        pool = replace(self._pool(group.kind.what, "prefill_first"), count=group.count)
        return self._highest(lambda trace: self.workload.is_met(pool.serve(trace)), group.goodput_per_s, _NEAR)

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

    def _highest(self, is_met: Callable[[Trace], bool], start_per_s: float = 1.0, factor: float = 2.0) -> float:
        def at(rate_per_s: float) -> bool:
            return is_met(self.workload.trace(rate_per_s))

        return goodput(at, start_per_s=start_per_s, tolerance=_TOLERANCE, factor=factor)

    def decode_tpot_s(self, instance: Instance, rate_per_s: float) -> list[float]:
        """Return what each further token takes at a rate, a value per request that has any; infinite if it ends."""
        return self._decode_tpot_s(self._pool(instance), self.workload.trace(rate_per_s))

    def prefill_ttft_s(self, instance: Instance, rate_per_s: float) -> list[float]:
        """Return what the first token takes at a rate, a value per request; infinite if it never comes."""
        records = self._pool(instance).prefill(self.workload.trace(rate_per_s))
        return [math.inf if record.ttft_s is None else record.ttft_s for record in records]

    def _is_decode_met(self, pool: Pool, trace: Trace) -> bool:
        bound = self.workload.slo.tpot_s
        assert bound is not None, "a workload has both bounds"
        times = self._decode_tpot_s(pool, trace)
        return sum(time <= bound for time in times) >= self.workload.share * len(times)

    def _decode_tpot_s(self, pool: Pool, trace: Trace) -> list[float]:
        rest = [
            TraceRequest(one.arrival_s, one.num_prompt_tokens + 1, one.num_output_tokens - 1)
            for one in trace.requests
            if one.num_output_tokens > 1
        ]
        waits = [self.link.seconds(one.num_prompt_tokens - 1) for one in rest]
        return [
            math.inf if one.e2e_s is None else (one.e2e_s + wait) / one.num_output_tokens
            for one, wait in zip(pool.decode(rest), waits, strict=True)
        ]

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


def place_in_machine(
    devices: int, prefill: Sequence[Kind[Instance]], decode: Sequence[Kind[Instance]]
) -> Placement[Instance, Instance]:
    """Return the best pools where only the links within a machine are fast enough (DistServe's algorithm 2).

    Both phases of the same layers share a machine: either both instances fit into one, or they have equally many
    stages, and a machine holds the same stages of both. It holds one kind for each phase, in the numbers that serve
    most.

    Args:
        devices: of a machine.
        prefill: kinds for prompts, of the machine's devices; one at least serves something.
        decode: kinds for the rest, likewise.

    Raises:
        InputError: if no pair fits.
    """
    pairs = [(one, other) for one in prefill for other in decode if one.goodput_per_s > 0 and other.goodput_per_s > 0]
    fitting = [(one, other) for one, other in pairs if _needed(one, other) <= _spanned(devices, one, other)]
    if not fitting:
        least = min(_needed(one, other) for one, other in pairs)
        problem = f"the phases share no machine of {devices} devices; the smallest pair that meets both takes {least}"
        raise InputError(problem, field="devices", remedy="Allow larger machines, or a network of high affinity")
    found = [split(_room(devices, one, other), one, other) for one, other in fitting]
    return max(found, key=lambda placed: placed.goodput_per_s / placed.price)


def _needed(prefill: Kind[Instance], decode: Kind[Instance]) -> int:
    return prefill.what.num_devices + decode.what.num_devices


def _spanned(devices: int, prefill: Kind[Instance], decode: Kind[Instance]) -> int:
    """Return the devices of the machines that a pair spans: one for each stage if stages can be paired."""
    return devices * (prefill.what.stages if prefill.what.stages == decode.what.stages else 1)


def _room(devices: int, prefill: Kind[Instance], decode: Kind[Instance]) -> float:
    """Return what the devices cost that a pair may take."""
    return _spanned(devices, prefill, decode) * prefill.price / prefill.what.num_devices
