"""``steelyard plan scale``: how many replicas to run over the next hours, by a load's history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, check_at_least, examples, takes_groups
from steelyard.cli.output import format_table, working
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.errors import ParamsError
from steelyard.core.names import pick
from steelyard.plan.forecast.history import HistoryConfig, read_history
from steelyard.plan.forecast.named import FORECASTERS
from steelyard.plan.forecast.replay import ScalingCost
from steelyard.plan.forecast.scale_plan import REACTIVE, PlannedStep, ScaleJob, ScalePlan, plan_scale
from steelyard.plan.forecast.scores import QUANTILES
from steelyard.policies.scale import SCALE_POLICIES
from steelyard.policies.scale.types import Limits

EXAMPLES = examples(
    "steelyard plan scale load.csv --unit 12 --cold-start 240 --max 20",
    "steelyard plan scale metrics.parquet --column requests --column queue --every 300 --unit 12 --out plan.toml",
    "steelyard plan scale load.csv --unit 12 --forecaster smoothing --policy reactive --json",
)

_SHOWN = (0.1, 0.5, 0.9, 0.99)
_STEPS = 12


@takes_groups
def scale(
    *,
    history: Annotated[
        Path, typer.Argument(metavar="HISTORY", help="CSV or .parquet: a time, the load, perhaps other indicators.")
    ],
    unit: Annotated[float, typer.Option(help="Load that one replica serves, in the history's unit.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="An indicator to look at, the load first; once per column.", show_default="all"),
    ] = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds per step, to average lines over.", show_default="the history's")
    ] = None,
    fill: Annotated[int, typer.Option(help="Steps of a hole that may repeat the values before.")] = 0,
    horizon: Annotated[float | None, typer.Option(help="Seconds to plan for.", show_default=f"{_STEPS} steps")] = None,
    context: Annotated[int, typer.Option(help="Steps that forecasts look back.")] = 72,
    season: Annotated[float, typer.Option(help="Seconds after which things repeat, to compare with.")] = 86_400,
    forecaster: Annotated[str, typer.Option(help=", ".join(FORECASTERS) + ".")] = "harmony",
    policy: Annotated[str, typer.Option(help=", ".join(SCALE_POLICIES) + ".")] = "expected_cost",
    idle_cost: Annotated[float, typer.Option(help="Of a replica that is not needed, per step.")] = 1.0,
    missing_cost: Annotated[float, typer.Option(help="Of one that is needed and missing, per step.")] = 10.0,
    cold_start: Annotated[float, typer.Option(help="Seconds from ordering a replica to its first request.")] = 0.0,
    least: Annotated[int, typer.Option("--min", help="Replicas at least.")] = 1,
    most: Annotated[int | None, typer.Option("--max", help="Replicas at most.", show_default=False)] = None,
    running: Annotated[
        int | None, typer.Option(help="Replicas that stand now.", show_default="what is decided first")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of training and of all that is drawn.")] = 0,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Forecast a load and decide how many replicas to run, beside what the decision costs if it is wrong.

    The last fifth of the history is held out first, to say how good forecast and decisions were there.
    """
    check_at_least("fill", fill, 0)
    for name, seconds in (("every", every), ("horizon", horizon)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise ParamsError(f"{seconds:g} s is no time", field=name, remedy="Give seconds above 0")
    if running is not None:
        check_at_least("running", running, 0)
    found = read_history(history, HistoryConfig(columns=tuple(column or ()), every_s=every, fill=fill))
    job = ScaleJob(
        history=found,
        unit=unit,
        forecaster=_known(FORECASTERS, forecaster, "forecaster"),
        policy=_known(SCALE_POLICIES, policy, "policy"),
        horizon=_STEPS if horizon is None else math.ceil(horizon / found.raw.step_s),
        context=context,
        season_s=season,
        cold_start_s=cold_start,
        idle_cost=idle_cost,
        missing_cost=missing_cost,
        limits=Limits(least=least, most=most),
        num_running=running,
        seed=seed,
    )
    with working("forecasting and deciding") as tell:
        plan = plan_scale(job, tell)
    text = "\n\n".join(
        [_head(plan), format_table(_HEADERS, [_row(job, one) for one in plan.steps]), _judged_text(plan)]
    )
    print_plan(PrintedPlan(text=text, reasons=list(_reasons(plan)), fields=_fields(plan)), where, output)


def _known(table: dict[str, Any], name: str, field: str) -> str:
    return pick({one: one for one in table}, name, field=field)


def _head(plan: ScalePlan) -> str:
    job, counts = plan.job, [one.replicas for one in plan.steps]
    span_s = len(plan.steps) * job.history.raw.step_s
    return (
        f"{job.history.load}: {min(counts)} to {max(counts)} replicas over {span_s / 3600:.3g} h from "
        f"{_clock(plan.steps[0].at_s)} UTC, by {job.policy} and {job.forecaster}"
    )


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


_HEADERS = (
    "FROM",
    *(f"{level:.0%} BELOW" for level in _SHOWN),
    "REPLICAS",
    "STANDING",
    "SHORT",
    "COST",
    "ONE FEWER",
    "ONE MORE",
)


def _row(job: ScaleJob, one: PlannedStep) -> tuple[str, ...]:
    load = (f"{one.load[QUANTILES.index(level)]:.4g}" for level in _SHOWN)
    costs = ("–" if cost is None else f"{cost:.2f}" for cost in (one.cost, one.cost_fewer, one.cost_more))
    return (_clock(one.at_s), *load, str(one.replicas), str(one.standing), f"{one.short_share:.0%}", *costs)


def _judged_text(plan: ScalePlan) -> str:
    rows = [
        (
            name,
            f"{one.scores.crps:.4g}",
            f"{one.scores.mae:.4g}",
            *(f"{one.covered[QUANTILES.index(level)]:.0%}" for level in _SHOWN),
        )
        for name, one in plan.judged.items()
    ]
    headers = ("HELD OUT", "CRPS", "MEAN ERROR", *(f"BELOW {level:.0%}" for level in _SHOWN))
    return format_table(headers, rows)


def _reasons(plan: ScalePlan) -> Iterator[str]:
    yield from _forecast_reasons(plan)
    yield from _cost_reasons(plan)
    yield from _limit_reasons(plan)


def _forecast_reasons(plan: ScalePlan) -> Iterator[str]:
    job = plan.job
    own = plan.judged[job.forecaster].scores.crps
    others = {name: one.scores.crps for name, one in plan.judged.items() if name != job.forecaster}
    beside = ", ".join(f"{own / crps:.2f} of {name}'s" for name, crps in others.items() if crps > 0)
    if beside:
        yield f"On the last {plan.num_held:,} steps, held out, {job.forecaster}'s CRPS is {beside}"
    best = min(plan.judged, key=lambda name: plan.judged[name].scores.crps)
    if best != job.forecaster:
        yield f"{best} forecasts this load better: take --forecaster {best}"
    if "seasonal" not in plan.judged:
        yield "The history is too short to compare with the season before"
    if job.history.num_filled:
        yield f"{job.history.num_filled} steps were holes and repeat the values before"


def _cost_reasons(plan: ScalePlan) -> Iterator[str]:
    job, hour_s = plan.job, plan.job.history.raw.step_s / 3600
    if job.policy == "expected_cost":
        yield (
            f"A missing replica costs {job.missing_cost / job.idle_cost:g} idle ones, so {plan.wanted:.0%} of demands "
            f"are to be covered; by what was held out, the forecast's {plan.level:.0%} quantile does that"
        )
    own, follower = plan.scaled
    text = (
        f"Over the last {own.num_steps:,} steps {job.policy} would have had {_scaled_text(own, hour_s)}; following "
        f"demand, {_scaled_text(follower, hour_s)}"
    )
    costs = [one.cost(job.idle_cost, job.missing_cost) for one in plan.scaled]
    yield f"{text}: {costs[0] / costs[1]:.2f} of its cost" if costs[1] and job.policy != REACTIVE else text


def _scaled_text(cost: ScalingCost, hour_s: float) -> str:
    short = cost.num_short_steps / cost.num_steps
    return (
        f"{cost.idle * hour_s:,.0f} replica hours idle and {cost.missing * hour_s:,.0f} missing, short in {short:.1%}"
    )


def _limit_reasons(plan: ScalePlan) -> Iterator[str]:
    job = plan.job
    bound = [one for one in plan.steps if one.replicas == job.limits.most and one.cost_more < one.cost]
    if bound:
        worst = max(bound, key=lambda one: one.short_share)
        yield (
            f"--max {job.limits.most} binds on {len(bound)} steps: at {_clock(worst.at_s)} it is too few in "
            f"{worst.short_share:.0%} of the possible futures"
        )
    late = [one for one in plan.steps[: job.cold_steps] if one.standing < one.replicas]
    if late:
        until = _clock(late[-1].at_s + job.history.raw.step_s)
        yield f"Replicas take {job.cold_start_s:g} s to start: until {until} fewer stand than are wanted"


def _fields(plan: ScalePlan) -> dict[str, Any]:
    job = plan.job
    limits = {"min": job.limits.least, **({} if job.limits.most is None else {"max": job.limits.most})}
    return {
        "kind": "scale",
        "load": job.history.load,
        "step_s": job.history.raw.step_s,
        "unit": job.unit,
        "forecaster": job.forecaster,
        "policy": job.policy,
        "cold_start_s": job.cold_start_s,
        **limits,
        "quantiles": list(QUANTILES),
        "held_steps": plan.num_held,
        "filled_steps": job.history.num_filled,
        "wanted_level": plan.wanted,
        "level": plan.level,
        "held_out": [
            {"forecaster": name, **asdict(one.scores), "covered": list(one.covered)}
            for name, one in plan.judged.items()
        ],
        "scaling": [
            {"policy": name, **asdict(cost), "cost": cost.cost(job.idle_cost, job.missing_cost)}
            for name, cost in zip((job.policy, REACTIVE), plan.scaled, strict=True)
        ],
        "steps": [_step_fields(one) for one in plan.steps],
    }


def _step_fields(one: PlannedStep) -> dict[str, Any]:
    fields = {**asdict(one), "load": list(one.load), "at": datetime.fromtimestamp(one.at_s, UTC).isoformat()}
    return {name: value for name, value in fields.items() if value is not None}
