"""S74 Flover: temporal fusion (continuous batching at every iteration) beside static batching and one at a time.

The same requests arrive by the same Poisson process at three engines that differ only in the scheduling policy's name
and the number of seats. Each arm runs on the real model in real time, and again on the modelled machine in virtual
time: predicted beside measured.

The paper compares with FasterTransformer on GPUs, requests being run one after another or in pre-formed batches; its
fast reordering of buffers when a request finishes has no counterpart here, because a paged cache needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean, median, quantiles

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.engine.build import LLMOptions, Parts, build_parts
from steelyard.engine.engine import Engine
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.prediction import calibrated_device, predicted_step_cost
from steelyard.engine.torch_executor import TorchExecutor
from steelyard.hardware.this_machine import this_machine
from steelyard.policies.schedule import make_schedule_policy
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.sim.virtual import run_virtual

CLAIM = "11× (GPT) and 16× (LLaMA) faster inference of randomly arriving requests than FasterTransformer"
PROMPT_TOKENS = (16, 96)
OUTPUT_TOKENS = (16, 128)
ARRIVALS_PER_S = 6.0
SEATS = 32


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to batch: a policy, and how many may run at once."""

    name: str
    policy: str
    seats: int


ARMS = (
    Arm("continuous", "fcfs", SEATS),
    Arm("static batches", "static", SEATS),
    Arm("one at a time", "fcfs", 1),
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes, seconds after the start."""

    at_s: float
    request: Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of one arm gave.

    Attributes:
        tokens_per_s: output tokens from the first arrival to the last token.
        mean_s: mean end-to-end latency.
        p90_s: its 90th percentile.
        ttft_s: mean time to first token.
    """

    tokens_per_s: float
    mean_s: float
    p90_s: float
    ttft_s: float


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S74 and return its table."""
    parts = build_parts(options.model, LLMOptions(max_model_len=512, max_num_seqs=SEATS, seed=options.seed))
    count, repeats = (12, 1) if options.quick else (40, 3)
    arrivals = poisson_arrivals(count, parts.model.config.vocab_size, options.seed)
    predict = predictor(parts)
    predicted = {arm: predict(arm, arrivals) for arm in ARMS}
    executor = TorchExecutor(parts.runner)
    warm_up(parts, executor, arrivals)
    runs = [{arm: measure(parts, arm, executor, arrivals) for arm in ARMS} for _ in range(repeats)]
    asyncio.run(executor.close())
    measured = {arm: median_outcome([run[arm] for run in runs]) for arm in ARMS}
    return stamped(
        system="S74",
        claim=CLAIM,
        setup=(
            f"{parts.name} in float32, {count} requests arriving at {ARRIVALS_PER_S:g}/s (Poisson), "
            f"{PROMPT_TOKENS[0]}–{PROMPT_TOKENS[1]} tokens in, {OUTPUT_TOKENS[0]}–{OUTPUT_TOKENS[1]} out, "
            f"{SEATS} seats; median of {repeats} interleaved runs; predicted = same code in virtual time, on a "
            "roofline calibrated by two steps"
        ),
        rows=rows(measured, predicted),
        command=command_line("S74", options),
    )


def poisson_arrivals(count: int, vocab_size: int, seed: int) -> list[Arrival]:
    """Return requests of random lengths with exponential gaps between them."""
    rng, at_s, found = Random(seed), 0.0, []
    for number in range(count):
        at_s += rng.expovariate(ARRIVALS_PER_S)
        prompt = tuple(rng.randrange(vocab_size) for _ in range(rng.randint(*PROMPT_TOKENS)))
        params = SamplingParams(temperature=0.0, max_tokens=rng.randint(*OUTPUT_TOKENS), ignore_eos=True)
        found.append(Arrival(at_s, Request(id=str(number), prompt_token_ids=prompt, params=params)))
    return found


def warm_up(parts: Parts, executor: Executor, arrivals: list[Arrival]) -> None:
    """Touch weights and KV cache once, so that the first arm does not pay for it."""
    few = [replace(arrival, at_s=0.0) for arrival in arrivals[:4]]
    asyncio.run(serve(make_engine(parts, ARMS[0], executor), few))


def measure(parts: Parts, arm: Arm, executor: Executor, arrivals: list[Arrival]) -> Outcome:
    """Run one arm on the real model in real time."""
    return asyncio.run(serve(make_engine(parts, arm, executor), arrivals))


def predictor(parts: Parts) -> Callable[[Arm, list[Arrival]], Outcome]:
    """Return a function that runs an arm on the modelled machine in virtual time."""
    config = parts.model.config
    device = calibrated_device(parts.runner, config, parts.dtype, this_machine().devices[0])
    cost = predicted_step_cost(config, parts.dtype, device)
    modelled = ModelledExecutor(cost, SyntheticTokens(config.vocab_size))
    return lambda arm, arrivals: run_virtual(serve(make_engine(parts, arm, modelled), arrivals))


def make_engine(parts: Parts, arm: Arm, executor: Executor) -> Callable[[], Engine]:
    """Return what makes the arm's engine inside the loop that will run it; nothing but batching differs."""
    config = replace(
        parts.engine_config, max_num_seqs=arm.seats, max_num_batched_tokens=4096, enable_prefix_caching=False
    )
    return lambda: Engine(config, executor, make_schedule_policy(arm.policy), vocab_size=parts.model.config.vocab_size)


async def serve(new_engine: Callable[[], Engine], arrivals: list[Arrival]) -> Outcome:
    """Send every request at its time, on whatever clock the running loop keeps."""
    engine = new_engine()
    loop = asyncio.create_task(engine.run())
    start_s = now_s()
    outputs = await asyncio.gather(*(_send(engine, arrival) for arrival in arrivals))
    elapsed_s = now_s() - start_s - arrivals[0].at_s
    loop.cancel()
    return summarise(outputs, elapsed_s)


async def _send(engine: Engine, arrival: Arrival) -> RequestOutput:
    await sleep_s(arrival.at_s)
    return await engine.submit(arrival.request).result()


def summarise(outputs: list[RequestOutput], elapsed_s: float) -> Outcome:
    """Return throughput and latencies of finished requests."""
    latencies = [(o.times.last_token_s or 0.0) - o.times.arrival_s for o in outputs]
    return Outcome(
        tokens_per_s=sum(len(o.outputs[0].token_ids) for o in outputs) / elapsed_s,
        mean_s=fmean(latencies),
        p90_s=quantiles(latencies, n=10)[-1],
        ttft_s=fmean(o.times.ttft_s or 0.0 for o in outputs),
    )


def median_outcome(outcomes: list[Outcome]) -> Outcome:
    """Return the field-wise median."""
    return Outcome(
        tokens_per_s=median(o.tokens_per_s for o in outcomes),
        mean_s=median(o.mean_s for o in outcomes),
        p90_s=median(o.p90_s for o in outcomes),
        ttft_s=median(o.ttft_s for o in outcomes),
    )


def rows(measured: dict[Arm, Outcome], predicted: dict[Arm, Outcome]) -> tuple[ReproductionRow, ...]:
    """Return the table: each arm's numbers, then what temporal fusion gains over the others."""
    fused = ARMS[0]
    table = [
        ReproductionRow(
            claim="–",
            setup=arm.name,
            ours=f"{_numbers(measured[arm])}; predicted {_numbers(predicted[arm])}",
        )
        for arm in ARMS
    ]
    for arm, claim in ((ARMS[2], "11× GPT, 16× LLaMA"), (ARMS[1], "–")):
        for name, gain in (("mean latency", _latency_gain), ("throughput", _throughput_gain)):
            ratio, expected = gain(measured[fused], measured[arm]), gain(predicted[fused], predicted[arm])
            table.append(
                ReproductionRow(
                    claim=claim if name == "mean latency" else "–",
                    setup=f"continuous over {arm.name}, {name}",
                    ours=f"{ratio:.2f}×; predicted {expected:.2f}×",
                    ratio=ratio,
                )
            )
    return tuple(table)


def _latency_gain(fused: Outcome, other: Outcome) -> float:
    return other.mean_s / fused.mean_s


def _throughput_gain(fused: Outcome, other: Outcome) -> float:
    return fused.tokens_per_s / other.tokens_per_s


def _numbers(outcome: Outcome) -> str:
    return (
        f"{outcome.tokens_per_s:.0f} tok/s, latency mean {outcome.mean_s:.2f} s, P90 {outcome.p90_s:.2f} s, "
        f"TTFT {outcome.ttft_s:.2f} s"
    )
