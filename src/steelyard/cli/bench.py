"""``steelyard bench``: four measurements of an engine on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from steelyard.cli.bench_measure import Measurement, Spread, Workload, measure
from steelyard.cli.bench_startup import measure_startup, median_startup
from steelyard.cli.expectation import (
    Compared,
    comparison_fields,
    comparison_table,
    expectation,
    operator_tables,
    operator_text,
)
from steelyard.cli.loading import Loaded, loaded_model
from steelyard.cli.options import EngineOptions, OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import format_table, print_json, write_error_line, write_line
from steelyard.core.clock import utc_timestamp
from steelyard.core.units import format_bytes, format_seconds
from steelyard.engine.step_profile import StepProfiler
from steelyard.hardware.this_machine import cpu_model, num_usable_cores, peak_rss_bytes

app = new_app(
    """Measure an engine on this machine.

    Prompts are random token ids of exact length, decoding is greedy and goes on after the end-of-sequence token.
    Rates are medians over the repeats, after a warm-up; times are the engine's own.
    """
)

PromptTokens = Annotated[int, typer.Option(help="Tokens per prompt, exactly.")]
OutputTokens = Annotated[int, typer.Option(help="Tokens to generate per request, exactly.")]
Requests = Annotated[int, typer.Option(help="Requests per repeat; they arrive at once.")]
Concurrency = Annotated[int, typer.Option(help="Requests running at once; the others wait.")]
Expected = Annotated[
    bool, typer.Option("--expected/--no-expected", help="Say also what this machine's probe lets expect.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatOptions:
    """How often to measure."""

    seed: Annotated[int, typer.Option(help="Of the random prompts.")] = 0
    warmup: Annotated[int, typer.Option(help="Repeats to run and forget first.")] = 1
    repeat: Annotated[int, typer.Option(help="Repeats to measure.")] = 3


@app.command(epilog=examples("steelyard bench latency", "steelyard bench latency --prompt-tokens 512 --json"))
@takes_groups
def latency(
    *,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    requests: Requests = 1,
    concurrency: Concurrency = 1,
    expected: Expected = True,
    repeats: RepeatOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> None:
    """Measure one user's wait: time to first token, and the time of each further token."""
    workload = _workload(prompt_tokens, output_tokens, requests, concurrency, repeats)
    _bench("latency", workload, engine, output, expected=expected)


@app.command(epilog=examples("steelyard bench throughput --requests 32 --concurrency 16"))
@takes_groups
def throughput(
    *,
    prompt_tokens: PromptTokens = 128,
    output_tokens: OutputTokens = 64,
    requests: Requests = 16,
    concurrency: Concurrency = 8,
    expected: Expected = True,
    repeats: RepeatOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> None:
    """Measure output tokens per second of many requests together."""
    workload = _workload(prompt_tokens, output_tokens, requests, concurrency, repeats)
    _bench("throughput", workload, engine, output, expected=expected)


@app.command(epilog=examples("steelyard bench prefill --prompt-tokens 2048"))
@takes_groups
def prefill(
    *,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 1,
    requests: Requests = 1,
    concurrency: Concurrency = 1,
    expected: Expected = True,
    repeats: RepeatOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> None:
    """Measure prompt tokens per second."""
    workload = _workload(prompt_tokens, output_tokens, requests, concurrency, repeats)
    _bench("prefill", workload, engine, output, expected=expected)


@app.command(epilog=examples("steelyard bench startup", "steelyard bench startup --model ./model.gguf --repeat 5"))
@takes_groups
def startup(
    *, prompt_tokens: PromptTokens = 16, repeats: RepeatOptions, engine: EngineOptions, output: OutputOptions
) -> None:
    """Measure a cold start: from the start of a fresh process to its first token.

    The warm-up fills the system's file cache; with --warmup 0 the first start may read from the disk.
    """
    workload = _workload(prompt_tokens, 1, 1, 1, repeats)
    engine.keywords()  # a wrong value is told once, here
    arguments = ["--prompt-tokens", str(prompt_tokens), "--output-tokens", "1", "--warmup", "0", "--repeat", "1"]
    arguments += ["--no-expected", "--seed", str(workload.seed), *_engine_arguments(engine)]
    results = measure_startup(arguments, warmup=workload.warmup, repeat=workload.repeat, note=write_error_line)
    middle = median_startup(results)
    times = {
        "startup_s": middle.startup_s,
        "import_s": middle.import_s,
        "load_s": middle.load_s,
        "ttft_s": middle.ttft_s,
    }
    if output.json:
        rates = dict.fromkeys(("prefill_tokens_per_s", "decode_tokens_per_s", "output_tokens_per_s"))
        all_s = [result.startup_s for result in results]
        print_json({**_heading("startup", workload), **rates, **times, "repeats": all_s})
    else:
        names = ("process start to first token", "importing", "loading the model", "time to first token")
        rows = [(name, format_seconds(value)) for name, value in zip(names, times.values(), strict=True)]
        write_line(format_table(("STARTUP", "MEDIAN"), rows))


def _workload(
    prompt_tokens: int, output_tokens: int, requests: int, concurrency: int, repeats: RepeatOptions
) -> Workload:
    return Workload(
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        requests=requests,
        concurrency=concurrency,
        seed=repeats.seed,
        warmup=repeats.warmup,
        repeat=repeats.repeat,
    )


def _bench(kind: str, workload: Workload, engine: EngineOptions, output: OutputOptions, *, expected: bool) -> None:
    with loaded_model(engine, max_num_seqs=workload.concurrency) as loaded:
        profiler = StepProfiler(loaded.llm.engine.parts.runner)
        found = measure(loaded, workload, write_error_line, profiler)
        told = expectation(loaded, workload) if expected else None
        rates = {} if told is None else told.beside(found.prefill_tokens_per_s, found.decode_tokens_per_s)
        tables = () if told is None else operator_tables(told, profiler.steps)
        if output.json:
            fields = None if told is None else comparison_fields(told, rates, tables)
            print_json({**_heading(kind, workload), **_setup(loaded), **found.fields(), "expected": fields})
        else:
            write_line("\n\n".join([_report(kind, found, rates), *map(operator_text, tables)]))
            if told is not None:
                write_error_line(f"predicted from the {told.origin}; the limit is the roofline's")
            write_error_line(f"{loaded.name}, peak memory {format_bytes(peak_rss_bytes())}")


def _heading(kind: str, workload: Workload) -> dict[str, Any]:
    machine = {"cpu_model": cpu_model(), "num_usable_cores": num_usable_cores()}
    return {"bench": kind, "date": utc_timestamp(), **machine, "workload": asdict(workload)}


def _setup(loaded: Loaded) -> dict[str, Any]:
    return {"model": loaded.name, "load_s": loaded.load_s, "peak_rss_bytes": peak_rss_bytes()}


def _engine_arguments(engine: EngineOptions) -> list[str]:
    """Return the options that say the same to another process."""
    arguments = ["--device", engine.device, "--dtype", engine.dtype, "--kv-cache-dtype", engine.kv_cache_dtype]
    arguments += ["--schedule-policy", engine.schedule_policy]
    optional = (
        ("--model", engine.model),
        ("--max-model-len", engine.max_model_len),
        ("--kv-cache-memory", engine.kv_cache_memory),
        ("--threads", engine.threads),
    )
    for name, value in optional:
        arguments += [] if value is None else [name, str(value)]
    return [*arguments, "--prefix-caching" if engine.prefix_caching else "--no-prefix-caching"]


def _report(kind: str, found: Measurement, compared: Mapping[str, Compared]) -> str:
    rates = (
        ("prefill", found.prefill_tokens_per_s),
        ("decode, per request", found.decode_tokens_per_s),
        ("output, all requests", found.output_tokens_per_s),
    )
    rows = [(name, f"{rate:.1f}") for name, rate in rates if rate is not None]
    times = (("queue", found.queue_s), ("TTFT", found.ttft_s), ("TPOT", found.tpot_s), ("E2E", found.e2e_s))
    spreads = [(name, *_shown(value)) for name, value in times if value is not None]
    beside = {name: one for name, one in compared.items() if one.measured is not None}
    return "\n\n".join(
        [
            format_table((kind.upper(), "TOKENS/S"), rows),
            *([comparison_table(beside)] if beside else []),
            format_table(("TIME", "MEAN", "P50", "P90", "P99", "MAX"), spreads),
        ]
    )


def _shown(value: Spread) -> Sequence[str]:
    return [format_seconds(each) for each in (value.mean, value.p50, value.p90, value.p99, value.max)]
