"""S53, DistServe: requests per GPU within both objectives, phases apart beside phases together.

Steps take what the authors' profiles say, of their own engine's kernels and of vLLM's of then. Against the latter there
is a gain; the rows with equal kernels say how much of it is the separation's, and find none. Every arm has the same
machine of eight, the phases apart as the paper placed them. Lengths are drawn around the published means: 15 % of the
prompts like ShareGPT's are longer than OPT-13B on one A100, by vLLM's kernels, computes within the objective, so
nothing is served there. There is no profile of OPT-175B.

It takes three minutes, most of them OPT-13B's, whose machine answers up to 28 requests/s. Estimates of steps are under
1 % of that, so keeping equal ones saves nothing; the seconds are the engine's own, which hands on every token of every
answer. A search asks about ten rates and ends within 5 %; fewer would show in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.plan.disaggregate import Question, Workload, pools, within
from steelyard.plan.phase_instances import PROFILED_TOKENS, profiled_instance, profiled_kv_bytes
from steelyard.plan.phases import Instance, Limits, Link
from steelyard.plan.place import Placement
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.sim.result import Slo
from steelyard.sim.traces.synthetic import published_lengths

CLAIM = "4.48× the requests, or 10.2× tighter objectives, with 90 % of the requests within them"
_NVLINK_BYTES_PER_S = 300e9
_START_PER_S = 4.0
_COUNT = 100
_MACHINE_DEVICES = 8

Degrees = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload of the paper.

    Attributes:
        model: of OPT.
        lengths: name of published lengths.
        slo: the paper's.
        prefill: tensor and pipeline degrees of the paper's placement.
        decode: likewise.
        counts: of instances for prompts and for decodes, which fill a machine of eight.
        vllm: tensor degrees of the baseline: the paper's, then the best of those profiled if that is another.
        same: degrees of the best instance for both phases with equal kernels, of those profiled.
    """

    model: str
    lengths: str
    slo: Slo
    prefill: Degrees
    decode: Degrees
    counts: tuple[int, int]
    vllm: tuple[int, ...]
    same: Degrees

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.model} {self.lengths}, {self.slo.ttft_s:g} s and {self.slo.tpot_s:g} s/token"


CASES = (
    Case(
        model="opt-13b",
        lengths="sharegpt",
        slo=Slo(ttft_s=0.25, tpot_s=0.1),
        prefill=(2, 1),
        decode=(1, 1),
        counts=(3, 2),
        vllm=(1, 4),
        same=(4, 1),
    ),
    Case(
        model="opt-66b",
        lengths="sharegpt",
        slo=Slo(ttft_s=2.5, tpot_s=0.15),
        prefill=(4, 1),
        decode=(2, 2),
        counts=(1, 1),
        vllm=(4,),
        same=(4, 2),
    ),
    Case(
        model="opt-66b",
        lengths="humaneval",
        slo=Slo(ttft_s=0.125, tpot_s=0.2),
        prefill=(4, 1),
        decode=(2, 2),
        counts=(1, 1),
        vllm=(4, 8),
        same=(4, 2),
    ),
    Case(
        model="opt-66b",
        lengths="longbench",
        slo=Slo(ttft_s=15.0, tpot_s=0.15),
        prefill=(4, 1),
        decode=(2, 2),
        counts=(1, 1),
        vllm=(4,),
        same=(4, 2),
    ),
)


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S53 and return its table."""
    cases = [case for case in CASES if case.lengths != "sharegpt"] if options.quick else CASES
    return stamped(
        system="S53",
        claim=CLAIM,
        setup="a machine of eight A100 80 GB, published step times, Poisson arrivals; requests/s per GPU",
        rows=tuple(row for case in cases for row in case_rows(case, _COUNT, options.seed)),
        command=command_line("S53", options),
    )


def case_rows(case: Case, count: int, seed: int) -> Iterator[ReproductionRow]:
    """Yield a workload's rows: against vLLM's kernels of then, against equal ones, and how tight objectives may be."""
    asked = question(case, count, seed)
    placed = placement(case)
    most = asked.apart(placed, _START_PER_S) / placed.price
    of_then = {tp: together(asked, profiled_instance(case.model, "vllm", tp)) for tp in case.vllm}
    best, same = max(of_then.values()), profiled_instance(case.model, "distserve", *case.same)
    apart_text = f"{most:.2f} apart ({_placement_text(placed)})"
    then_text = ", ".join(f"{rate:.2f} together (TP{tp})" for tp, rate in of_then.items())
    yield _compared("up to 4.48×", f"{case.title}: vLLM's kernels of then", (most, best), f"{apart_text}; {then_text}")
    rate = together(asked, same)
    same_text = f"{rate:.2f} together ({same.name})"
    yield _compared("–", f"{case.title}: equal kernels", (most, rate), f"{most:.2f} apart; {same_text}")
    if best:
        yield tighter_row(case, asked, placed, best)


def tighter_row(
    case: Case, asked: Question, placed: Placement[Instance, Instance], rate_per_gpu: float
) -> ReproductionRow:
    """Return by how much both objectives may shrink apart, at the rate that the baseline just serves."""
    factor = asked.workload.tightest(asked.records_apart(placed, rate_per_gpu * placed.price))
    return ReproductionRow(
        claim="up to 10.2× tighter",
        setup=f"{case.title}: at the {rate_per_gpu:.2f} requests/s per GPU that vLLM's kernels serve",
        ours=f"met apart are both objectives times {factor:.2f}",
        ratio=1 / factor if math.isfinite(factor) else None,
    )


def question(case: Case, count: int, seed: int) -> Question:
    """Return what instances are asked for a workload."""
    limits = Limits(max_model_len=PROFILED_TOKENS)
    lengths = within(published_lengths(case.lengths), limits)
    link = Link(seconds_per_token=profiled_kv_bytes(case.model) / _NVLINK_BYTES_PER_S)
    return Question(workload=Workload(lengths=lengths, slo=case.slo, count=count, seed=seed), limits=limits, link=link)


def placement(case: Case) -> Placement[Instance, Instance]:
    """Return the paper's placement of a workload, on one machine."""
    first, second = (profiled_instance(case.model, "distserve", *one) for one in (case.prefill, case.decode))
    return pools(first, second, case.counts)


def together(asked: Question, instance: Instance) -> float:
    """Return requests per second and device of a machine full of instances that do both phases."""
    return asked.together(instance, count=_MACHINE_DEVICES // instance.num_devices) / _MACHINE_DEVICES


def _placement_text(placed: Placement[Instance, Instance]) -> str:
    first, second = placed.prefill, placed.decode
    return f"{first.count} × {first.kind.what.name} | {second.count} × {second.kind.what.name}"


def _compared(claim: str, setup: str, rates: tuple[float, float], ours: str) -> ReproductionRow:
    apart, baseline = rates
    return ReproductionRow(claim=claim, setup=setup, ours=ours, ratio=apart / baseline if baseline else None)
