"""S19, Splitwise: clusters of A100 and H100 machines, prompts and tokens apart, under equal power, cost or throughput.

Steps take what the authors measured, requests are as large as those of Azure's traces and come by a Poisson process.
Each kind of machine is simulated with each phase and with both; a cluster's rate is that of its slower pool. A capped
H100 decodes as fast as another, as the authors found, for less power.

What differs from the paper: there is no pool that does both as needed; a bound is the same for every request, not
relative to what that request takes alone, and there are two of them, not nine; and rates of single machines are
multiplied, so neither design gains by a larger pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf
from random import Random

from steelyard.cost.roofline import StepShape
from steelyard.cost.splitwise import splitwise_steps
from steelyard.hardware.catalogue.read import find_device
from steelyard.plan.disaggregate import Question, Workload, pools, within
from steelyard.plan.phase_instances import kv_room
from steelyard.plan.phases import Instance, Limits, Link
from steelyard.plan.serving_catalogue import find_serving_model, kv_token_bytes
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.tables import read_table
from steelyard.sim.result import Slo
from steelyard.sim.traces.synthetic import Lengths

CLAIM = "1.4× the throughput at 20 % lower cost; or 2.35× at the same cost and power"
_MODEL, _TP = "llama-2-70b", 8
_PROFILE = "llama2-70b"
_TTFT_FACTOR, _TPOT_FACTOR = 3.0, 1.5
_LIMITS = Limits(max_model_len=8192, max_num_seqs=64)
_BATCHES = (64, 128)
"""Sequences at once, of which the better counts: steps were measured up to 64, and waits grow with more."""
_INFINIBAND_BYTES_PER_S = 25e9
_RATE_PER_S = 70.0
_CHEAPER = 0.8
_NUM_MACHINES = 40
_SHRUNK = 5
_SCHEDULES = ("fcfs", "prefill_first")
_WORKLOADS = ("conversation", "code")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Eight devices, in the units of the authors' experiments (splitwise-sim, configs/experiment).

    Attributes:
        device: of the measured steps.
        cost: dollars per device and hour.
        power: provisioned, in the unit of those experiments; an H100 machine's is 1.77 times that of an A100's.
    """

    device: str
    cost: float
    power: float


A100 = Machine(device="a100-80gb", cost=2.21, power=24.8)
H100 = Machine(device="h100", cost=4.76, power=44.0)
H100_CAPPED = Machine(device="h100", cost=4.76, power=30.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What a cluster is made of.

    Attributes:
        prefill: its machines for prompts.
        decode: its machines for tokens; ``None`` if the first do both.
    """

    prefill: Machine
    decode: Machine | None = None


BASELINES = {"Baseline-A100": Design(prefill=A100), "Baseline-H100": Design(prefill=H100)}
SPLITWISE = {
    "Splitwise-AA": Design(prefill=A100, decode=A100),
    "Splitwise-HH": Design(prefill=H100, decode=H100),
    "Splitwise-HA": Design(prefill=H100, decode=A100),
    "Splitwise-HHcap": Design(prefill=H100, decode=H100_CAPPED),
}
DESIGNS = {**BASELINES, **SPLITWISE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a cluster may take, in the units of :class:`Machine`; without limit by default."""

    cost: float = inf
    power: float = inf

    def fits(self, machine: Machine, taken: tuple[float, float] = (0.0, 0.0)) -> int:
        """Return how many machines what is left is enough for."""
        left = (self.cost - taken[0]) / machine.cost, (self.power - taken[1]) / machine.power
        return int(min(left) + 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests per second of one machine, by its device: prompts, tokens, and both."""

    prefill: Mapping[str, float]
    decode: Mapping[str, float]
    together: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Built:
    """A cluster: machines for prompts (or both), machines for tokens, and what they serve."""

    prefill: int
    decode: int
    rate_per_s: float


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S19 and return its table."""
    count = 40 if options.quick else 100
    return stamped(
        system="S19",
        claim=CLAIM,
        setup="Llama-2-70B on eight A100 or H100, measured steps; sizes of Azure's traces; 90 % within "
        f"{_TTFT_FACTOR:g}× an idle A100's first token (of the 90th percentile's prompt) and {_TPOT_FACTOR:g}× its "
        "others; machines in brackets; no mixed pool",
        rows=tuple(row for name in _WORKLOADS for row in workload_rows(name, count, options.seed)),
        command=command_line("S19", options),
    )


def workload_rows(name: str, count: int, seed: int) -> Iterator[ReproductionRow]:
    """Yield a trace's rows: equal power, cost, both; less cost; equal throughput; a whole cluster simulated."""
    asked = question(name, count, seed)
    rates = measured_rates(asked)
    cost, power = _NUM_MACHINES * H100.cost, _NUM_MACHINES * H100.power
    yield _throughput_row("–", f"{name}, equal power", rates, Budget(power=power))
    yield _throughput_row("–", f"{name}, equal cost", rates, Budget(cost=cost))
    yield _throughput_row("2.35×", f"{name}, equal cost and power", rates, Budget(cost=cost, power=power))
    yield _cheaper_row(name, rates, Budget(cost=cost))
    yield _equal_throughput_row(name, rates)
    yield _whole_row(name, asked, rates, Budget(cost=cost))


def question(name: str, count: int, seed: int) -> Question:
    """Return what machines are asked for a trace; its bounds are an idle A100's times."""
    sizes = requests(name)
    prompts = sorted(prompt for prompt, _ in sizes)
    long = prompts[ceil(0.9 * len(prompts)) - 1]
    idle = splitwise_steps(_PROFILE, A100.device, _TP)
    first, other = (idle.estimate(StepShape.of(shape)).seconds for shape in ((long, long), (1, long)))
    slo = Slo(ttft_s=_TTFT_FACTOR * first, tpot_s=_TPOT_FACTOR * other)
    workload = Workload(lengths=within(_drawn(sizes), _LIMITS), slo=slo, count=count, seed=seed)
    model = find_serving_model(_MODEL)
    last_layer_bytes = kv_token_bytes(model) / model.num_layers  # the others cross while layers are computed
    link = Link(seconds_per_token=last_layer_bytes / _INFINIBAND_BYTES_PER_S)
    return Question(workload=workload, limits=_LIMITS, link=link)


def requests(name: str) -> list[tuple[int, int]]:
    """Return the tokens of prompts and answers of a trace's excerpt."""
    rows = [row for row in read_table("s19_azure") if row["workload"] == name]
    return [(int(row["prompt_tokens"]), int(row["answer_tokens"])) for row in rows]


def instance(machine: Machine) -> Instance:
    """Return a machine that holds the model."""
    return Instance(
        name=machine.device,
        steps=splitwise_steps(_PROFILE, machine.device, _TP),
        num_kv_tokens=kv_room(find_serving_model(_MODEL), find_device(machine.device), _TP),
        num_devices=_TP,
    )


def measured_rates(asked: Question) -> Rates:
    """Return what one machine of each device serves, of two limits on its batch and two ways to schedule the better."""
    machines = {machine.device: instance(machine) for machine in (A100, H100)}
    sized = [replace(asked, limits=replace(asked.limits, max_num_seqs=batch)) for batch in _BATCHES]
    return Rates(
        prefill={name: asked.prefill(one) for name, one in machines.items()},
        decode={name: max(each.decode(one) for each in sized) for name, one in machines.items()},
        together={
            name: max(each.together(one, schedule) for each in sized for schedule in _SCHEDULES)
            for name, one in machines.items()
        },
    )


def build(design: Design, rates: Rates, budget: Budget) -> Built:
    """Return the cluster of a design that serves most within a budget."""
    first, second = design.prefill, design.decode
    most = budget.fits(first)
    if second is None:
        return Built(most, 0, most * rates.together[first.device])
    clusters = [
        _pooled(design, rates, count, budget.fits(second, (count * first.cost, count * first.power)))
        for count in range(most + 1)
    ]
    return max(clusters, key=lambda one: one.rate_per_s)


def needed(design: Design, rates: Rates, rate_per_s: float) -> Built:
    """Return the cluster of a design that serves a rate."""
    first, second = design.prefill, design.decode
    if second is None:
        count = ceil(rate_per_s / rates.together[first.device])
        return Built(count, 0, count * rates.together[first.device])
    prompts, tokens = rates.prefill[first.device], rates.decode[second.device]
    return _pooled(design, rates, ceil(rate_per_s / prompts), ceil(rate_per_s / tokens))


def _pooled(design: Design, rates: Rates, first: int, second: int) -> Built:
    assert design.decode is not None
    rate = min(first * rates.prefill[design.prefill.device], second * rates.decode[design.decode.device])
    return Built(first, second, rate)


def _price(design: Design, built: Built) -> tuple[float, float]:
    """Return cost and power, as shares of those of the paper's 40 H100 machines."""
    second = design.decode or design.prefill
    cost = built.prefill * design.prefill.cost + built.decode * second.cost
    power = built.prefill * design.prefill.power + built.decode * second.power
    return cost / (_NUM_MACHINES * H100.cost), power / (_NUM_MACHINES * H100.power)


def _throughput_row(claim: str, setup: str, rates: Rates, budget: Budget) -> ReproductionRow:
    found = {name: build(design, rates, budget) for name, design in DESIGNS.items()}
    texts = [f"{name} {_count_text(one)}: {one.rate_per_s:.0f}" for name, one in found.items()]
    best, baseline = (max(found[name].rate_per_s for name in names) for names in (SPLITWISE, BASELINES))
    return ReproductionRow(claim=claim, setup=setup, ours="; ".join(texts) + " requests/s", ratio=best / baseline)


def _cheaper_row(name: str, rates: Rates, budget: Budget) -> ReproductionRow:
    """Return what a fifth less money serves apart, beside all of it together on H100."""
    found = {one: build(design, rates, Budget(cost=_CHEAPER * budget.cost)) for one, design in SPLITWISE.items()}
    best, built = max(found.items(), key=lambda pair: pair[1].rate_per_s)
    baseline = build(BASELINES["Baseline-H100"], rates, budget)
    return ReproductionRow(
        claim="1.4× at 20 % lower cost",
        setup=f"{name}, 80 % of the cost beside Baseline-H100",
        ours=f"{best} {_count_text(built)}: {built.rate_per_s:.0f} beside {baseline.rate_per_s:.0f} requests/s",
        ratio=built.rate_per_s / baseline.rate_per_s,
    )


def _equal_throughput_row(name: str, rates: Rates) -> ReproductionRow:
    prices = {one: _price(design, needed(design, rates, _RATE_PER_S)) for one, design in DESIGNS.items()}
    texts = [f"{one} {cost:.2f} of the cost, {power:.2f} of the power" for one, (cost, power) in prices.items()]
    best, baseline = (min(prices[one][0] for one in names) for names in (SPLITWISE, BASELINES))
    setup = f"{name}, {_RATE_PER_S:g} requests/s; of {_NUM_MACHINES} H100 machines"
    return ReproductionRow(claim="–", setup=setup, ours="; ".join(texts), ratio=baseline / best)


def _whole_row(name: str, asked: Question, rates: Rates, budget: Budget) -> ReproductionRow:
    """Return how a fifth of a cluster of both kinds does as a whole at the rate that its pools promise."""
    design = SPLITWISE["Splitwise-HA"]
    assert design.decode is not None
    built = build(design, rates, Budget(cost=budget.cost / _SHRUNK))
    placed = pools(instance(design.prefill), instance(design.decode), (built.prefill, built.decode))
    factor = asked.workload.tightest(asked.records_apart(placed, built.rate_per_s))
    return ReproductionRow(
        claim="–",
        setup=f"{name}, Splitwise-HA of a fifth of the cost simulated as a whole",
        ours=f"{_count_text(built)} at {built.rate_per_s:.0f} requests/s: 90 % within {factor:.2f} times both bounds",
    )


def _count_text(built: Built) -> str:
    return f"({built.prefill})" if built.decode == 0 else f"({built.prefill} | {built.decode})"


def _drawn(sizes: list[tuple[int, int]]) -> Lengths:
    def draw(rng: Random) -> tuple[int, int]:
        return rng.choice(sizes)

    return draw
