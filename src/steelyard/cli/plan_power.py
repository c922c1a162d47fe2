"""``steelyard plan power``: how many servers may share a power budget that was made for fewer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, check_at_least, examples, takes_groups
from steelyard.cli.output import format_table, working
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.errors import ParamsError
from steelyard.plan.disaggregate import within
from steelyard.plan.phases import Limits
from steelyard.plan.power import Load, LossLimits, PowerJob, PowerPlan, Row, plan_power, power_reasons
from steelyard.plan.power_server import server_of
from steelyard.plan.serving_catalogue import serving_models
from steelyard.policies.cap import CAP_POLICIES
from steelyard.sim.conditions import PowerBudget, Priority
from steelyard.sim.traces import load_trace
from steelyard.sim.traces.synthetic import PUBLISHED, lengths_of, published_lengths

EXAMPLES = examples(
    "steelyard plan power llama-2-70b --machine dgx-a100 --servers 10",
    "steelyard plan power llama-3-8b --peak-share 0.7 --policy one_threshold_low --others none,polca",
    "steelyard plan power llama-2-70b --trace AzureLLMInferenceTrace_conv.csv --rate 0.4 --json",
)
_MAX_SERVERS = 1000


@takes_groups
def power(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=", ".join(serving_models()) + ".")] = "llama-2-70b",
    machine: Annotated[str, typer.Option(help="Each server, of the catalogue; its devices share the model.")] = (
        "dgx-a100"
    ),
    servers: Annotated[int, typer.Option(help="That the budget was made for.")] = 10,
    added: Annotated[str, typer.Option(help="Shares of servers to add, rising.")] = "0,0.1,0.2,0.3,0.4,0.5",
    server_watts: Annotated[
        float | None, typer.Option(help="That the budget has for each server.", show_default="the machine's peak")
    ] = None,
    host_watts: Annotated[
        float | None, typer.Option(help="Of all but the devices, all along.", show_default="what devices leave of it")
    ] = None,
    policy: Annotated[str, typer.Option(help=f"{', '.join(CAP_POLICIES)}.")] = "polca",
    others: Annotated[str, typer.Option(help="Policies to show beside it, or nothing.")] = "none",
    high_share: Annotated[float, typer.Option(help="Of the servers, those of high priority.")] = 0.5,
    high_loss: Annotated[str, typer.Option(help="Of high priority's median and P99, at most.")] = "0.01,0.05",
    low_loss: Annotated[str, typer.Option(help="Of low priority's.")] = "0.05,0.5",
    peak_share: Annotated[float, typer.Option(help="Of the budget that the servers it was made for reach.")] = 0.79,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second and server.", show_default="by --peak-share")
    ] = None,
    lengths: Annotated[str, typer.Option(help=f"Of prompts and answers: {', '.join(PUBLISHED)}.")] = "sharegpt",
    trace: Annotated[str | None, typer.Option(help="Draw lengths from this trace instead.", show_default=False)] = None,
    duration: Annotated[float, typer.Option(help="Seconds of the day in small that is simulated.")] = 300.0,
    context: Annotated[int, typer.Option(help="Tokens of prompt and answer; longer requests are cut.")] = 4096,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Oversubscribe a row's power: add servers, and lower clocks, of low priority first, when it comes too close.

    Rows of rising size are simulated with the engine's own scheduler, with caps and without. The largest counts that
    never brakes and whose answers are not later than they may be.
    """
    check_at_least("servers", servers, 2)
    if servers > _MAX_SERVERS:
        raise ParamsError(f"{servers} take too long", field="servers", remedy=f"Give {_MAX_SERVERS} at most")
    drawn = published_lengths(lengths) if trace is None else lengths_of(load_trace(trace, seed))
    load = Load(
        lengths=within(drawn, Limits(max_model_len=context)),
        duration_s=duration,
        rate_per_s=rate,
        peak_share=peak_share,
    )
    job = PowerJob(
        server=server_of(model, machine, context, server_watts, host_watts),
        num_servers=servers,
        load=load,
        high_share=high_share,
        budget=PowerBudget(watts=1.0, policy=policy),
        limits=LossLimits(high=_pair("high_loss", high_loss), low=_pair("low_loss", low_loss)),
        added=_numbers("added", added),
        seed=seed,
    )
    with working("simulating rows"):
        plan = plan_power(job, [name for name in others.split(",") if name])
    text = "\n\n".join([_head(model, machine, plan), format_table(_HEADERS, [_cells(row) for row in _all_rows(plan)])])
    print_plan(PrintedPlan(text=text, reasons=power_reasons(plan), fields=_fields(model, machine, plan)), where, output)


_HEADERS = ("SERVERS", "ADDED", "POLICY", "PEAK", "MEAN", "BRAKES", "LOW LATER", "HIGH LATER", "LOW CAPPED", "REQ/S")


def _head(model: str, machine: str, plan: PowerPlan) -> str:
    best = plan.best
    budget = f"{plan.job.watts / 1e3:,.1f} kW, made for {plan.job.num_servers} × {machine}"
    if best is None:
        return f"{model}, {budget}: not even these"
    return f"{model}, {budget}: {best.num_servers} servers, {best.added:+.0%}"


def _all_rows(plan: PowerPlan) -> list[Row]:
    return [*plan.rows, *plan.others]


def _cells(row: Row) -> tuple[str, ...]:
    later = ["{:+.1%}, {:+.1%}".format(*row.losses[priority]) for priority in (Priority.LOW, Priority.HIGH)]
    power = row.power
    return (
        str(row.num_servers),
        f"{row.added:+.0%}",
        row.policy,
        f"{power.peak_share:.1%}",
        f"{power.mean_share:.1%}",
        str(power.num_brakes),
        *later,
        f"{power.low_capped_s:.0f} s",
        f"{row.requests_per_s:.2f}",
    )


def _fields(model: str, machine: str, plan: PowerPlan) -> dict[str, Any]:
    best, job = plan.best, plan.job
    chosen = {} if best is None else {"num_servers": best.num_servers, "added": best.added}
    return {
        "kind": "power",
        "model": model,
        "machine": machine,
        "watts": job.watts,
        "rate_per_server_per_s": plan.rate_per_s,
        **chosen,
        "rows": [_row_fields(row) for row in _all_rows(plan)],
    }


def _row_fields(row: Row) -> dict[str, Any]:
    losses = {f"{name.value}_later": list(row.losses[name]) for name in Priority}
    power = row.power
    return {
        "num_servers": row.num_servers,
        "added": row.added,
        "policy": row.policy,
        "peak_share": power.peak_share,
        "mean_share": power.mean_share,
        "num_brakes": power.num_brakes,
        "low_capped_s": power.low_capped_s,
        "high_capped_s": power.high_capped_s,
        **losses,
        "requests_per_s": row.requests_per_s,
    }


def _numbers(field: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        problem = f"{text!r} are no numbers"
        raise ParamsError(problem, field=field, remedy="Give numbers with commas between") from None


def _pair(field: str, text: str) -> tuple[float, float]:
    numbers = _numbers(field, text)
    if len(numbers) != 2 or not all(number >= 0 for number in numbers):
        raise ParamsError(f"{text!r} is no pair", field=field, remedy="Give the median's and the P99's, from 0")
    return numbers[0], numbers[1]
