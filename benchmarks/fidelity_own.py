"""The modelled machine beside this one: the same requests, the same control plane, real time and virtual time.

    steelyard probe
    python benchmarks/fidelity_own.py --minutes 10 --write

Requests of a conversation's sizes (log-normal, as the public Azure trace of 2023 has them, scaled down to a small
model) come in quiet minutes and busy ones. The modelled side knows the machine from ``steelyard probe`` alone: nothing
is fitted to this run, and it is given no token of the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import median, quantiles

from steelyard.cli.profiles import known_machine
from steelyard.core.clock import now_s, sleep_s, utc_timestamp
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.engine.build import LLMOptions, Parts, build_parts
from steelyard.engine.executor import Executor, ModelledExecutor, SyntheticTokens
from steelyard.engine.prediction import operator_step_cost
from steelyard.engine.pricing import pricing_of
from steelyard.engine.torch_executor import InlineExecutor
from steelyard.hardware.this_machine import this_machine
from steelyard.reproduce.report import source_version
from steelyard.sim.virtual import run_virtual

RESULTS = Path(__file__).with_name("RESULTS.md")
MAX_MODEL_LEN = 2048
PROMPT_MEDIAN, OUTPUT_MEDIAN, SPREAD = 300, 80, 0.8
RATES_PER_S = (2.0, 5.0)  # of a quiet minute and of a busy one
PHASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes, seconds after the start."""

    at_s: float
    request: Request


@dataclass(frozen=True, slots=True)
class Served:
    """What one world made of the arrivals.

    Attributes:
        ttft_s: per request, from arrival to the first token.
        tpot_s: per request of two tokens and more, seconds per token after the first.
        e2e_s: per request, from arrival to the last token.
        tokens_per_s: output tokens from the first arrival to the last token.
    """

    ttft_s: list[float]
    tpot_s: list[float]
    e2e_s: list[float]
    tokens_per_s: float


def arrivals(minutes: float, rates_per_s: Sequence[float], vocab_size: int, seed: int) -> list[Arrival]:
    """Return Poisson arrivals whose rate changes every half minute."""
    rng, at_s, found = Random(seed), 0.0, []
    while True:
        at_s += rng.expovariate(rates_per_s[int(at_s / PHASE_S) % len(rates_per_s)])
        if at_s > 60.0 * minutes:
            return found
        prompt = tuple(rng.randrange(vocab_size) for _ in range(_length(rng, PROMPT_MEDIAN, MAX_MODEL_LEN // 2)))
        num_output = _length(rng, OUTPUT_MEDIAN, MAX_MODEL_LEN // 4)
        params = SamplingParams(temperature=0.0, max_tokens=num_output, ignore_eos=True)
        found.append(Arrival(at_s, Request(id=str(len(found)), prompt_token_ids=prompt, params=params)))


def _length(rng: Random, middle: float, most: int) -> int:
    return max(1, min(most, round(middle * rng.lognormvariate(0.0, SPREAD))))


async def serve(parts: Parts, executor: Executor, coming: Sequence[Arrival]) -> Served:
    """Send every request at its time, on whatever clock the running loop keeps."""
    engine = parts.make_engine(executor)
    loop = asyncio.create_task(engine.run())
    start_s = now_s()

    async def send(arrival: Arrival) -> RequestOutput:
        await sleep_s(start_s + arrival.at_s - now_s())
        return await engine.submit(arrival.request).result()

    outputs = await asyncio.gather(*(send(arrival) for arrival in coming))
    await engine.close()
    await loop
    return served(outputs, start_s + coming[0].at_s)


def served(outputs: Sequence[RequestOutput], first_s: float) -> Served:
    """Return the figures of finished requests."""
    ttft_s, tpot_s, e2e_s, last_s, num_tokens = [], [], [], first_s, 0
    for output in outputs:
        times, count = output.times, len(output.outputs[0].token_ids)
        assert times.first_token_s is not None
        assert times.last_token_s is not None
        ttft_s.append(times.first_token_s - times.arrival_s)
        e2e_s.append(times.last_token_s - times.arrival_s)
        if count > 1:
            tpot_s.append((times.last_token_s - times.first_token_s) / (count - 1))
        last_s, num_tokens = max(last_s, times.last_token_s), num_tokens + count
    return Served(ttft_s, tpot_s, e2e_s, num_tokens / (last_s - first_s))


def rows(real: Served, modelled: Served) -> list[tuple[str, float, float]]:
    """Return (what, measured, modelled), times in milliseconds."""
    found = []
    for name in ("ttft", "tpot", "e2e"):
        one, other = getattr(real, f"{name}_s"), getattr(modelled, f"{name}_s")
        for title, statistic in (("median", median), ("P90", _p90)):
            found.append((f"{name.upper()} {title}, ms", 1e3 * statistic(one), 1e3 * statistic(other)))
    return [*found, ("output tok/s", real.tokens_per_s, modelled.tokens_per_s)]


def _p90(values: Sequence[float]) -> float:
    return quantiles(values, n=10)[-1]


def table(found: Sequence[tuple[str, float, float]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| | measured | modelled | deviation |", "|---|---|---|---|"]
    lines += [f"| {name} | {real:.4g} | {ours:.4g} | {ours / real - 1:+.1%} |" for name, real, ours in found]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run both worlds, print the table."""
    parser = argparse.ArgumentParser(description="The simulator against our own engine on this machine.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES_PER_S), help="requests/s, phase by phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"append to {RESULTS.name}")
    given = parser.parse_args()
    parts = build_parts(None, LLMOptions(max_model_len=MAX_MODEL_LEN, seed=given.seed))
    pricing = pricing_of(parts, known_machine().profile)
    assert pricing.calibration is not None, "run `steelyard probe` with this number of threads first"
    vocab_size = parts.model.config.vocab_size
    coming = arrivals(given.minutes, given.rates, vocab_size, given.seed)
    cost = operator_step_cost(pricing.model, pricing.device, pricing.calibration)
    modelled = run_virtual(serve(parts, ModelledExecutor(cost, SyntheticTokens(vocab_size)), coming))
    print(f"{len(coming)} requests; modelled: {modelled.tokens_per_s:.0f} output tok/s", flush=True)
    real = asyncio.run(_on_this_machine(parts, coming))
    text = table(rows(real, modelled))
    print(text)
    if given.write:
        words = ["--minutes", f"{given.minutes:g}", "--rates", *(f"{rate:g}" for rate in given.rates)]
        command = shlex.join(["python", "benchmarks/fidelity_own.py", *words, "--seed", str(given.seed), "--write"])
        machine = this_machine()
        heading = (
            f"\n## {utc_timestamp()} · the modelled machine beside this one, {len(coming)} requests\n\n"
            f"`{command}` · {machine.cpu_model}, {machine.num_usable_cores} cores · commit {source_version()}\n\n"
        )
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(heading + text + "\n")


async def _on_this_machine(parts: Parts, coming: Sequence[Arrival]) -> Served:
    # A page of the KV cache costs a millisecond when it is touched first, and never again: fill it once.
    room = parts.engine_config.num_kv_blocks * parts.engine_config.block_size
    sizes = accumulate(len(one.request.prompt_token_ids) + one.request.params.max_tokens for one in coming)
    filling = sum(size <= room for size in sizes) + 1
    await serve(parts, InlineExecutor(parts.runner), [Arrival(0.0, one.request) for one in coming[:filling]])
    return await serve(parts, InlineExecutor(parts.runner), coming)


if __name__ == "__main__":
    main()
