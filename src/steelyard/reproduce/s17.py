"""S17, POLCA: more servers under one power budget than their ratings allow, kept safe by capping low priority first.

A row of A100 machines serves Llama-2-70B; steps, and what they draw, are the cost model's. What is taken from the paper
is remembered, not read: a server is provisioned with 5.7 kW, of which 2.5 are not its devices'; production rows peak
at 79 % of their budget; answers of high priority may lose 1 % (median) and 5 % (P99), of low priority 5 % and 50 %.

What differs: the paper's row has 40 servers and BLOOM-176B among others, its load is six weeks of production; here a
day of four minutes is drawn, and the row is small, which makes its power less even.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.plan.disaggregate import within
from steelyard.plan.phases import Limits
from steelyard.plan.power import Load, PowerJob, PowerPlan, Row, plan_power
from steelyard.plan.power_server import server_of
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.sim.conditions import Priority
from steelyard.sim.traces.synthetic import published_lengths

CLAIM = "30 % more servers in the same row, with minimal performance loss"
_MODEL, _MACHINE, _CONTEXT = "llama-2-70b", "dgx-a100", 4096
_RATED_WATTS, _HOST_WATTS = 5700.0, 2500.0
_OTHERS = ("none", "one_threshold_low", "one_threshold_all")
_CLAIMED = 0.3


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S17 and return its table."""
    plan = plan_power(job_of(options), _OTHERS)
    job = plan.job
    return stamped(
        system="S17",
        claim=CLAIM,
        setup=f"{_MODEL}, ShareGPT's lengths, a day of {job.load.duration_s:g} s; a budget for {job.num_servers} × "
        f"{_MACHINE} of {_RATED_WATTS / 1e3:g} kW, {plan.rate_per_s:.2f} requests/s each; half is of high priority; "
        "later: median and P99 of whole answers against the same row without caps",
        rows=tuple(rows(plan)),
        command=command_line("S17", options),
    )


def job_of(options: ReproduceOptions) -> PowerJob:
    """Return what is planned; a quick one has a shorter day and fewer sizes."""
    load = Load(
        lengths=within(published_lengths("sharegpt"), Limits(max_model_len=_CONTEXT)),
        duration_s=120.0 if options.quick else 240.0,
    )
    return PowerJob(
        server=server_of(_MODEL, _MACHINE, _CONTEXT, _RATED_WATTS, _HOST_WATTS),
        num_servers=10,
        load=load,
        added=(0.0, 0.3) if options.quick else (0.0, 0.1, 0.2, 0.3, 0.4),
        seed=options.seed,
    )


def rows(plan: PowerPlan) -> Iterator[ReproductionRow]:
    """Yield the headline, each size under POLCA, and the other policies."""
    best = plan.best
    found = "none" if best is None else f"{best.added:+.0%}, {best.requests_per_s / plan.rows[0].requests_per_s:.2f}×"
    ratio = None if best is None else (1.0 + best.added) / (1.0 + _CLAIMED)
    yield ReproductionRow(claim="30 % more servers", setup="servers added, requests answered", ours=found, ratio=ratio)
    for row in (*plan.rows, *plan.others):
        is_claimed = row.policy == "polca" and abs(row.added - _CLAIMED) < 0.01
        yield ReproductionRow(
            claim="no brake, within limits" if is_claimed else "–",
            setup=f"{row.policy}, {row.num_servers} servers",
            ours=f"{_told(row)}; {row.broken(plan.job.limits) or 'within all limits'}",
        )


def _told(row: Row) -> str:
    low, high = ("{:+.1%}, {:+.1%}".format(*row.losses[priority]) for priority in (Priority.LOW, Priority.HIGH))
    power = row.power
    return f"peak {power.peak_share:.0%}, mean {power.mean_share:.0%}; low {low} later, high {high}"
