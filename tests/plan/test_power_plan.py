"""Rows under one power budget: where capping begins to matter, what it costs, and what is impossible is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import StepShape
from steelyard.engine.config import EngineConfig
from steelyard.plan.power import Load, LossLimits, PowerJob, PowerPlan, Server, plan_power, power_reasons
from steelyard.plan.power_server import server_of
from steelyard.sim.conditions import PowerBudget, Priority


@dataclass(frozen=True)
class HotSteps:
    """Prompts take longer at a lower clock and draw three times what decodes do."""

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        num_prompt = step.num_tokens - len(step.sequences)
        watts = 900.0 if num_prompt else 300.0
        return StepEstimate(0.05 + 0.001 * num_prompt / clock_share, 60.0 + (watts - 60.0) * clock_share)


SERVER = Server(
    steps=HotSteps(),
    engine=EngineConfig(max_model_len=1024, num_kv_blocks=1024, max_waiting=10_000),
    idle_watts=60.0,
    host_watts=200.0,
    rated_watts=1100.0,
)
BUDGET = PowerBudget(watts=1.0, cap_delay_s=4.0, brake_delay_s=1.0)


def job_of(**options) -> PowerJob:
    load = Load(lengths=lambda rng: (rng.randint(100, 500), rng.randint(10, 40)), duration_s=60.0, peak_share=0.75)
    return PowerJob(**{"server": SERVER, "num_servers": 6, "load": load, "budget": BUDGET, **options})


@cache
def plan() -> PowerPlan:
    return plan_power(job_of(limits=LossLimits(high=(0.5, 0.5), low=(0.5, 1.0))), ["none"])


def test_rows_rise_until_a_limit_is_broken() -> None:
    found = plan()
    counts = [row.num_servers for row in found.rows]
    assert counts == sorted(set(counts))
    assert counts[0] == 6
    assert all(row.broken(found.job.limits) is None for row in found.rows[:-1])
    assert found.best is not None
    assert found.best.num_servers > 6
    peaks = [row.power.peak_share for row in found.rows]
    assert 0.6 < peaks[0] < 0.9
    assert peaks[-1] > peaks[0]
    assert found.rows[-1].requests_per_s > found.rows[0].requests_per_s


def test_other_policies_stand_beside_the_best_row_and_reasons_say_what_binds() -> None:
    found = plan()
    assert [(row.policy, row.num_servers) for row in found.others] == [("none", found.best.num_servers)]
    reasons = power_reasons(found)
    assert "6.6 kW" in reasons[0]
    last = found.rows[-1]
    assert f"{last.num_servers} servers" in reasons[1]
    assert reasons[2].startswith(f"With {found.best.num_servers} servers and none: ")


def test_a_row_that_breaks_a_limit_says_which() -> None:
    row = replace(
        plan().rows[0],
        power=replace(plan().rows[0].power, num_brakes=0),
        losses={Priority.LOW: (0.01, 0.6), Priority.HIGH: (0.0, 0.02)},
    )
    assert row.broken(LossLimits()) == "the P99 of low priority is 60.0% later, more than 50%"
    assert row.broken(LossLimits(low=(0.05, 0.7))) is None
    braked = replace(row, power=replace(row.power, num_brakes=2))
    assert braked.broken(LossLimits()) == "it brakes 2 times"


def test_the_same_load_per_server_whatever_the_size() -> None:
    load = replace(job_of().load, rate_per_s=1.0)
    found = plan_power(job_of(load=load, added=(0.0, 1.0), budget=replace(BUDGET, policy="none")))
    assert found.rate_per_s == 1.0
    if len(found.rows) == 2:
        assert found.rows[1].requests_per_s == pytest.approx(2 * found.rows[0].requests_per_s, rel=0.2)


def test_a_plan_is_a_function_of_its_inputs() -> None:
    job = job_of(added=(0.0, 0.5), load=replace(job_of().load, rate_per_s=1.5, duration_s=20.0))
    assert plan_power(job) == plan_power(job)


def test_what_cannot_be_is_refused() -> None:
    for options, field in (
        ({"num_servers": 1}, "servers"),
        ({"high_share": 1.0}, "high_share"),
        ({"added": (0.2, 0.1)}, "added"),
        ({"added": ()}, "added"),
    ):
        with pytest.raises(ParamsError) as caught:
            job_of(**options)
        assert caught.value.field == field
    with pytest.raises(InputError, match="when it does nothing") as refused:
        plan_power(job_of(load=replace(job_of().load, peak_share=0.1)))
    assert (refused.value.field, "0.24" in refused.value.remedy) == ("peak_share", True)


def test_a_row_that_is_too_hot_as_it_is_says_so() -> None:
    cold = replace(SERVER, rated_watts=500.0)
    found = plan_power(job_of(server=cold, load=replace(job_of().load, rate_per_s=2.0)))
    assert found.best is None
    assert "Not even 6 servers are possible" in power_reasons(found)[1]


def test_servers_of_the_catalogue() -> None:
    server = server_of("llama-2-70b", "dgx-a100", 4096)
    assert (server.rated_watts, server.host_watts, server.idle_watts) == (6500.0, 3300.0, 448.0)
    assert server_of("llama-2-70b", "dgx-a100", 4096, 5700.0, 2500.0).host_watts == 2500.0
    with pytest.raises(InputError, match="do not fit"):
        server_of("llama-2-70b", "dgx-a100", 10_000_000)
    with pytest.raises(InputError):
        server_of("llama-2-70b", "dgx-b100", 4096)
