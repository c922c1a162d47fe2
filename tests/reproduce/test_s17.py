"""S17: what is told of rows, and that more servers fit under POLCA than the budget was made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steelyard.plan.power import plan_power
from steelyard.reproduce import s17
from steelyard.reproduce.options import ReproduceOptions


def test_a_small_row_holds_more_servers_and_every_row_is_told() -> None:
    job = s17.job_of(ReproduceOptions(model="x", out_dir=Path("x"), quick=True))
    small = replace(job, num_servers=4, load=replace(job.load, duration_s=40.0, rate_per_s=0.3))
    plan = plan_power(small, ["none"])
    head, *told = s17.rows(plan)
    assert len(told) == len(plan.rows) + 1
    assert plan.best is not None
    assert head.ratio == (1.0 + plan.best.added) / 1.3
    assert all("peak" in row.ours and "later" in row.ours for row in told)
    assert told[-1].setup == f"none, {plan.best.num_servers} servers"
