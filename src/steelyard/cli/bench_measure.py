"""Measuring an engine with prompts of exact length: the workload, one repeat of it, and what all repeats say.

Prompts are random token ids, greedy decoding goes on after the end-of-sequence token, so the work is exactly what was
asked for. Every repeat draws new prompts: the same ones would come from the prefix cache. All times are the engine's
own (``RequestOutput.times``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean, median
from typing import Any

from steelyard.cli.answers import decode_tokens_per_s
from steelyard.cli.loading import Loaded
from steelyard.cli.options import check_at_least
from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import RequestOutput
from steelyard.engine.step_profile import StepProfiler

_PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is measured.

    Attributes:
        requests: arrive all at once, in each repeat.
        concurrency: requests running at once; the others wait, and their TTFT includes it.
        warmup: repeats that are run and forgotten.
        repeat: repeats that are measured.

    Raises:
        ParamsError: if a number is below 1 (``warmup``: below 0).
    """

    prompt_tokens: int
    output_tokens: int
    requests: int
    concurrency: int
    seed: int
    warmup: int
    repeat: int

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "requests", "concurrency", "repeat"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("warmup", self.warmup, 0)

    def check_context(self, max_model_len: int) -> None:
        """Raise :class:`ParamsError` if a request would not fit."""
        total = self.prompt_tokens + self.output_tokens
        if total > max_model_len:
            problem = f"{total} tokens with the output do not fit in the context of {max_model_len}"
            raise ParamsError(problem, field="prompt_tokens", remedy="Lower it, or --output-tokens")

    def prompts(self, vocab_size: int) -> Iterator[list[list[int]]]:
        """Yield the prompts of each repeat, the warm-up's first; the same seed gives the same prompts."""
        rng = Random(self.seed)
        for _ in range(self.warmup + self.repeat):
            yield [[rng.randrange(vocab_size) for _ in range(self.prompt_tokens)] for _ in range(self.requests)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatResult:
    """One repeat's rates; ``None`` where the workload does not show one.

    Attributes:
        prefill_tokens_per_s: prompt tokens of all requests, from the first one's start to the last one's first token;
            only where nobody waits for a seat.
        decode_tokens_per_s: of one request, after its first token; the median of the requests.
        output_tokens_per_s: output tokens of all requests, from the first arrival to the last token.
    """

    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    output_tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a time is distributed over all requests of all repeats, seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Medians over the repeats, and spreads over the requests; ``None`` where the workload does not show one."""

    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    output_tokens_per_s: float | None
    queue_s: Spread | None
    ttft_s: Spread | None
    tpot_s: Spread | None
    e2e_s: Spread | None
    repeats: tuple[RepeatResult, ...]

    def fields(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def measure(loaded: Loaded, workload: Workload, note: Callable[[str], None], profiler: StepProfiler) -> Measurement:
    """Run the workload and return what was measured.

    Args:
        loaded: the model.
        workload: what to run.
        note: told of each repeat.
        profiler: of the model's runner; keeps the steps of the repeats that are measured.
    """
    workload.check_context(loaded.max_model_len)
    params = SamplingParams(max_tokens=workload.output_tokens, temperature=0.0, ignore_eos=True, seed=0)
    kept: list[list[RequestOutput]] = []
    for index, prompts in enumerate(workload.prompts(loaded.vocab_size)):
        if index == workload.warmup:
            profiler.restart()
        with loaded.llm.observed(profiler):
            outputs = loaded.llm.generate(prompts, params)
        result = repeat_result(outputs, workload)
        if index >= workload.warmup:
            kept.append(outputs)
        note(_progress(index, workload, result))
    return summarise(kept, workload)


def summarise(repeats: Sequence[Sequence[RequestOutput]], workload: Workload) -> Measurement:
    """Return the medians and spreads of several repeats."""
    results = tuple(repeat_result(outputs, workload) for outputs in repeats)
    times = [output.times for outputs in repeats for output in outputs]
    scheduled = [(t.arrival_s, t.first_scheduled_s) for t in times]
    ended = [(t.arrival_s, t.last_token_s) for t in times]
    rates = [decode_tokens_per_s(output) for outputs in repeats for output in outputs]
    return Measurement(
        prefill_tokens_per_s=_median([result.prefill_tokens_per_s for result in results]),
        decode_tokens_per_s=_median([result.decode_tokens_per_s for result in results]),
        output_tokens_per_s=_median([result.output_tokens_per_s for result in results]),
        queue_s=spread([end - start for start, end in scheduled if end is not None]),
        ttft_s=spread([t.ttft_s for t in times if t.ttft_s is not None]),
        tpot_s=spread([1 / rate for rate in rates if rate]),
        e2e_s=spread([end - start for start, end in ended if end is not None]),
        repeats=results,
    )


def repeat_result(outputs: Sequence[RequestOutput], workload: Workload) -> RepeatResult:
    """Return one repeat's rates."""
    arrival_s = min(output.times.arrival_s for output in outputs)
    starts = [output.times.first_scheduled_s or arrival_s for output in outputs]
    firsts = [output.times.first_token_s or arrival_s for output in outputs]
    lasts = [output.times.last_token_s or arrival_s for output in outputs]
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    output_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    waits = workload.requests > workload.concurrency
    return RepeatResult(
        prefill_tokens_per_s=None if waits else _rate(prompt_tokens, max(firsts) - min(starts)),
        decode_tokens_per_s=_median([decode_tokens_per_s(output) for output in outputs]),
        output_tokens_per_s=None if workload.output_tokens == 1 else _rate(output_tokens, max(lasts) - arrival_s),
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Return the distribution of ``values``: percentiles are values that occurred (nearest rank)."""
    if not values:
        return None
    ranked = sorted(values)
    p50, p90, p99 = (ranked[math.ceil(percent / 100 * len(ranked)) - 1] for percent in _PERCENTS)
    return Spread(mean=fmean(ranked), p50=p50, p90=p90, p99=p99, max=ranked[-1])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _rate(num_tokens: int, elapsed_s: float) -> float | None:
    return num_tokens / elapsed_s if elapsed_s > 0 else None


def _progress(index: int, workload: Workload, result: RepeatResult) -> str:
    warm = index < workload.warmup
    number, total = (index + 1, workload.warmup) if warm else (index + 1 - workload.warmup, workload.repeat)
    rates = (
        ("prefill", result.prefill_tokens_per_s),
        ("decode", result.decode_tokens_per_s),
        ("output", result.output_tokens_per_s),
    )
    shown = ", ".join(f"{name} {rate:.1f} tokens/s" for name, rate in rates if rate is not None)
    return f"{'warm-up' if warm else 'repeat'} {number}/{total}: {shown}"
