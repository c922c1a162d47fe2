"""A power budget in virtual time: energy adds up, caps come late and in order of priority, and bits stay the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.roofline import StepShape
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import PowerBudget, Priority
from steelyard.sim.result import EventKind, SimulationResult
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest


@dataclass(frozen=True)
class ClockedSteps:
    """Prompts take longer at a lower clock, decodes do not; power falls with the clock."""

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        num_prompt = step.num_tokens - len(step.sequences)
        return StepEstimate(0.02 + 0.001 * num_prompt / clock_share, (600.0 if num_prompt else 300.0) * clock_share)


ENGINE = EngineConfig(max_model_len=2048, num_kv_blocks=1024, max_waiting=1000)
LOW = ReplicaGroup(name="low", count=2, steps=ClockedSteps(), engine=ENGINE, idle_watts=50.0, host_watts=100.0)
HIGH = replace(LOW, name="high", priority=Priority.HIGH)
NO_DELAY = {"cap_delay_s": 0.0, "brake_delay_s": 0.0}


def cluster_of(watts: float | None, **options) -> Cluster:
    power = None if watts is None else PowerBudget(watts=watts, **options)
    return Cluster(groups=(LOW, HIGH), power=power)


def trace_of(num_requests: int = 60, gap_s: float = 0.25, prompt: int = 300) -> Trace:
    requests = tuple(
        TraceRequest(number * gap_s, prompt + number, 60, tenant=("low", "high")[number % 2])
        for number in range(num_requests)
    )
    return Trace(name="both", requests=requests)


def ends(result: SimulationResult, tenant: str) -> list[float]:
    return [one.end_s for one in result.requests if one.tenant == tenant and one.end_s is not None]


def test_a_budget_that_nobody_reaches_changes_nothing() -> None:
    free, kept = simulate(cluster_of(None), trace_of()), simulate(cluster_of(1e6), trace_of())
    assert kept.requests == free.requests
    assert [one.busy_joules for one in kept.machines] == [one.busy_joules for one in free.machines]
    assert kept.events == ()
    assert kept.power is not None
    assert (kept.power.num_brakes, kept.power.low_capped_s, kept.power.high_capped_s) == (0, 0.0, 0.0)


def test_what_the_looks_saw_is_what_was_drawn() -> None:
    result = simulate(cluster_of(4000.0, policy="none", every_s=0.1), trace_of())
    assert result.power is not None
    end_s = max(machine.end_s for machine in result.machines)
    seen = result.power.mean_share * 4000.0 * end_s
    drawn = sum(machine.joules for machine in result.machines)
    assert seen == pytest.approx(drawn, rel=0.02)  # the last tenth of a second was not looked at
    # Four machines draw 150 W idle, and 700 W at most.
    assert 600.0 / 4000.0 <= result.power.mean_share <= result.power.peak_share <= 2800.0 / 4000.0


def test_requests_go_to_the_group_that_is_theirs() -> None:
    result = simulate(cluster_of(None), trace_of(num_requests=9))
    done = {group.name: sum(one.num_prefill_tokens for one in result.machines if one.group == group.name)
            for group in (LOW, HIGH)}  # fmt: skip
    wanted = {name: sum(one.num_prompt_tokens for one in result.requests if one.tenant == name) for name in done}
    assert done == wanted


def test_low_priority_is_capped_first_and_pays_for_it() -> None:
    free = simulate(cluster_of(None), trace_of())
    peak = simulate(cluster_of(2000.0, policy="none", every_s=1.0), trace_of()).power
    assert peak is not None
    watts = peak.peak_share * 2000.0 / 0.88  # between the first threshold and the second
    capped = simulate(cluster_of(watts, every_s=1.0, **NO_DELAY), trace_of())
    assert capped.power is not None
    assert capped.power.low_capped_s > 0
    assert (capped.power.high_capped_s, capped.power.num_brakes) == (0.0, 0)
    assert ends(capped, "high") == ends(free, "high")
    assert all(late >= early for late, early in zip(ends(capped, "low"), ends(free, "low"), strict=True))
    assert sum(ends(capped, "low")) > sum(ends(free, "low"))


def test_caps_and_brakes_take_effect_after_their_delays() -> None:
    result = simulate(cluster_of(1300.0, every_s=1.0, cap_delay_s=7.0, brake_delay_s=3.0), trace_of())
    first = {kind: next(one.at_s for one in result.events if one.kind is kind) for kind in
             (EventKind.CAPPED, EventKind.BRAKED, EventKind.RELEASED)}  # fmt: skip
    assert first[EventKind.BRAKED] == 1.0 + 3.0
    assert first[EventKind.CAPPED] == 1.0 + 7.0
    assert first[EventKind.RELEASED] > first[EventKind.BRAKED]
    assert result.power is not None
    assert result.power.num_brakes >= 1
    assert all(one.is_done for one in result.requests)


@settings(max_examples=25, deadline=None)
@given(
    watts=st.floats(500.0, 3000.0),
    policy=st.sampled_from(["none", "polca", "one_threshold_all", "one_threshold_low"]),
    every_s=st.sampled_from([0.3, 1.0, 2.0]),
    delay_s=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_whatever_the_budget_bits_are_the_same_and_nothing_is_lost(
    watts: float, policy: str, every_s: float, delay_s: float
) -> None:
    cluster = cluster_of(watts, policy=policy, every_s=every_s, cap_delay_s=delay_s, brake_delay_s=delay_s)
    trace = trace_of(num_requests=24)
    once = simulate(cluster, trace)
    assert all(one.is_done for one in once.requests)
    assert simulate(cluster, trace, SimulationOptions(coasts=False)) == once
    assert once.power is not None
    assert once.power.high_capped_s <= once.power.low_capped_s


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"watts": 0.0}, "watts"),
        ({"watts": 1.0, "policy": "polka"}, "cap_policy"),
        ({"watts": 1.0, "every_s": 0.0}, "every_s"),
        ({"watts": 1.0, "cap_delay_s": -1.0}, "cap_delay_s"),
        ({"watts": 1.0, "brake_clock_share": 1.5}, "brake_clock_share"),
        ({"watts": 1.0, "options": {"frist": 0.8}}, "frist"),
    ],
)
def test_impossible_budgets_are_refused(options, field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        PowerBudget(**options)
    assert caught.value.field == field


def test_an_unknown_priority_is_refused() -> None:
    with pytest.raises(InputError, match="'urgent'") as caught:
        replace(LOW, priority="urgent")
    assert "low, high" in caught.value.remedy
