"""``steelyard simulate``: what would happen if these requests came to that cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import (
    configure_logging,
    error_console,
    format_table,
    print_json,
    write_error_line,
    write_line,
)
from steelyard.core.clock import Stopwatch
from steelyard.core.errors import ParamsError
from steelyard.policies.route import ROUTE_POLICIES
from steelyard.policies.schedule import SCHEDULE_POLICIES
from steelyard.sim.cluster import Cluster
from steelyard.sim.cluster_file import read_cluster
from steelyard.sim.report import html_report, shown_seconds, spread_rows, summary_rows
from steelyard.sim.result import SimulationResult, Slo
from steelyard.sim.result_files import write_result
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces import load_trace
from steelyard.sim.traces.types import Trace

app = new_app()

ClusterFile = Annotated[Path, typer.Argument(metavar="CLUSTER.toml", help="What is simulated.")]
TraceSource = Annotated[str, typer.Option(help="FILE, FORMAT:FILE or synthetic:PROCESS,KEY=VALUE,…")]
Policy = Annotated[str | None, typer.Option(help="Scheduling policy of all replicas.", show_default="the file's")]
Router = Annotated[str | None, typer.Option(help="Routing policy.", show_default="the file's")]
Compare = Annotated[
    str | None, typer.Option(help="Policies to run side by side, such as fcfs,priority or least_loaded,round_robin.")
]
SloText = Annotated[str | None, typer.Option("--slo", help="Objective, such as ttft=1,tpot=0.05,e2e=30 (seconds).")]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.")]
Requests = Annotated[int | None, typer.Option(help="Only so many requests of the trace.", show_default="all")]
Speedup = Annotated[float, typer.Option(help="Let the trace's requests come so many times as fast.")]
Out = Annotated[Path | None, typer.Option(help="Write figures, tables and a report into this directory.")]


@app.command(
    "simulate",
    epilog=examples(
        "steelyard simulate cluster.toml --trace AzureLLMInferenceTrace_conv.csv --slo ttft=1,tpot=0.05",
        "steelyard simulate cluster.toml --trace synthetic:bursts,rate=8,duration=600,lengths=sharegpt --out result",
        "steelyard simulate cluster.toml --trace conversation_trace.jsonl --compare least_loaded,prefix_affinity",
    ),
)
@takes_groups
def simulate_command(
    *,
    cluster: ClusterFile,
    trace: TraceSource,
    policy: Policy = None,
    router: Router = None,
    compare: Compare = None,
    slo: SloText = None,
    seed: Seed = 0,
    requests: Requests = None,
    speedup: Speedup = 1.0,
    out: Out = None,
    output: OutputOptions,
) -> None:
    """Let a trace's requests meet a modelled cluster, in virtual time.

    The engine, its policies and the router are the ones that serve; only the machines are modelled. The same files and
    seed give the same result to the bit.
    """
    configure_logging()
    read = read_cluster(cluster).with_policies(schedule=policy, route=router)
    arms = _arms(read, compare)
    loaded = _shortened(load_trace(trace, seed), requests, speedup)
    for notice in loaded.notices:
        write_error_line(f"note: {notice}")
    bounds = parse_slo(slo)
    options = SimulationOptions(seed=seed, slo=bounds)
    results, wall_s = {}, {}
    for name, arm in arms.items():
        with Stopwatch() as watch, _progress(name, loaded, options) as shown:
            results[name] = simulate(arm, loaded, shown)
        wall_s[name] = watch.elapsed_s
    objective = None if bounds is None else asdict(bounds)
    setup = {"cluster": read.name, "trace": loaded.name, "seed": seed, "slo": objective}
    if out is not None:
        write_result(out, results, setup, html_report(f"{read.name}: {loaded.name}", results))
    _show(results, wall_s, setup, as_json=output.json)
    if out is not None:
        write_error_line(f"written to {out}")


def parse_slo(text: str | None) -> Slo | None:
    """Return the objective that ``ttft=1,tpot=0.05`` names; ``None`` for none.

    Raises:
        ParamsError: if it cannot be understood, or a bound is not positive.
    """
    if text is None:
        return None
    bounds: dict[str, float] = {}
    for pair in text.split(","):
        key, _, value = pair.partition("=")
        try:
            if key not in ("ttft", "tpot", "e2e") or key in bounds:
                raise ValueError
            bounds[key] = float(value)
        except ValueError:
            remedy = "Give ttft=, tpot= and e2e= in seconds, each once"
            raise ParamsError(f"{pair!r} cannot be understood", field="slo", remedy=remedy) from None
    return Slo(**{f"{key}_s": bound for key, bound in bounds.items()})


def _arms(cluster: Cluster, compare: str | None) -> dict[str, Cluster]:
    """Return what runs side by side: clusters that differ in one policy, by its name."""
    if compare is None:
        return {"result": cluster}
    names = compare.split(",")
    if len(set(names)) != len(names):
        raise ParamsError(f"{compare!r} names one twice", field="compare", remedy="Give each policy once")
    return {name: _with_policy(cluster, name) for name in names}


def _with_policy(cluster: Cluster, name: str) -> Cluster:
    is_schedule = name in SCHEDULE_POLICIES
    if not is_schedule and name not in ROUTE_POLICIES:
        known = ", ".join([*SCHEDULE_POLICIES, *ROUTE_POLICIES])
        raise ParamsError(f"there is no policy {name!r}", field="compare", remedy=f"Use some of {known}")
    return cluster.with_policies(schedule=name) if is_schedule else cluster.with_policies(route=name)


def _shortened(trace: Trace, requests: int | None, speedup: float) -> Trace:
    if requests is not None and requests < 1:
        raise ParamsError(f"{requests} is below 1", field="requests", remedy="Give a positive number")
    if not speedup > 0:
        raise ParamsError(f"{speedup:g} is no speed", field="speedup", remedy="Give a number above 0")
    shortened = trace if requests is None else trace.first(requests)
    return shortened if speedup == 1.0 else shortened.faster(speedup)


@contextmanager
def _progress(name: str, trace: Trace, options: SimulationOptions) -> Iterator[SimulationOptions]:
    """Show a bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"))
    bar = Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=error_console(), transient=True,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task(name, total=len(trace.requests))
        yield replace(options, progress=lambda _, num_ended: bar.update(task, completed=num_ended))


def _show(
    results: dict[str, SimulationResult], wall_s: dict[str, float], setup: dict[str, Any], *, as_json: bool
) -> None:
    summaries = {name: result.summary() for name, result in results.items()}
    speeds = {name: summary.span_s / wall_s[name] for name, summary in summaries.items()}
    if as_json:
        figures = {name: {**asdict(one), "simulated_s_per_s": speeds[name]} for name, one in summaries.items()}
        print_json({**setup, "results": figures})
        return
    for name, summary in summaries.items():
        spreads = [
            (label, *map(shown_seconds, (s.mean, s.p50, s.p90, s.p99, s.max))) for label, s in spread_rows(summary)
        ]
        write_line(format_table((name.upper(), "MEAN", "P50", "P90", "P99", "MAX"), spreads) + "\n")
        write_line(format_table(("", ""), summary_rows(summary)).lstrip() + "\n")
        speed = f"{speeds[name]:,.0f} simulated seconds per second, {summary.num_steps / wall_s[name]:,.0f} steps/s"
        write_error_line(f"{name}: {summary.span_s:,.0f} s in {wall_s[name]:.1f} s: {speed}")
