"""Plans of replicas: by hand where the future is certain, and what must hold of every plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.forecast.foresight import train_foresight
from steelyard.plan.forecast.history import History
from steelyard.plan.forecast.replay import standing
from steelyard.plan.forecast.scale_plan import ScaleJob, plan_scale
from steelyard.plan.forecast.series import RawSeries
from steelyard.plan.forecast.types import Task
from steelyard.policies.scale.types import Limits


def daily(num_days: int = 8, noise: float = 0.0) -> History:
    """Return a load that is the same every day, of half-hours, but for noise."""
    steps = np.arange(48 * num_days)
    load = 52 - 40 * np.cos(2 * np.pi * steps / 48) + noise * np.random.default_rng(0).standard_normal(len(steps))
    raw = RawSeries(name="daily", indicators=("load",), step_s=1800.0, first_s=0.0, values=np.maximum(load, 0)[:, None])
    return History(raw=raw, load="requests", start_s=0.0, num_filled=0)


def job(**changes: object) -> ScaleJob:
    usual = ScaleJob(history=daily(), unit=10.0, forecaster="seasonal", horizon=24, context=12, num_futures=20)
    return replace(usual, **changes)


def test_a_certain_future_is_met_exactly():
    plan = plan_scale(job())
    load = 52 - 40 * np.cos(2 * np.pi * np.arange(24) / 48)
    assert [one.load[0] for one in plan.steps] == pytest.approx(load)
    assert [one.replicas for one in plan.steps] == [max(1, int(np.ceil(x - 1e-9))) for x in load / 10]
    assert all(one.cost == 0 and one.short_share == 0 and one.cost_more == 1 for one in plan.steps if one.replicas > 1)
    assert all(one.cost_fewer == pytest.approx(10) for one in plan.steps if one.replicas > 1)
    assert plan.scaled[0].missing == 0
    assert plan.scaled[0].cost(1, 10) < plan.scaled[1].cost(1, 10), "following demand costs more"
    assert plan.judged["seasonal"].scores.crps == pytest.approx(0, abs=1e-9)
    assert plan.steps[0].at_s == 8 * 86_400


def test_replicas_that_start_slowly_are_ordered_before_they_are_needed():
    plan = plan_scale(job(cold_start_s=3600.0))
    needed = [one.replicas for one in plan_scale(job()).steps]
    assert all(one.standing >= need for one, need in zip(plan.steps, needed, strict=True))
    assert all(one.replicas >= one.standing for one in plan.steps)
    assert sum(one.replicas for one in plan.steps) > sum(needed)
    few = plan_scale(job(cold_start_s=3600.0, num_running=0, limits=Limits(least=2)))
    assert [one.standing for one in few.steps[:3]] == [0, 0, 2]


def test_what_stands_was_paid_while_it_started():
    paid = np.array([2, 3, 5, 5, 4, 6, 6, 6])
    assert standing(paid, 0, 9).tolist() == paid.tolist()
    assert standing(paid, 2, 2).tolist() == [2, 2, 2, 3, 4, 4, 4, 6]


def test_limits_hold_and_the_chance_of_being_short_is_told():
    plan = plan_scale(job(limits=Limits(least=3, most=6)))
    assert {one.replicas for one in plan.steps} == {3, 4, 5, 6}
    assert plan.steps[23].short_share == 1.0, "nine are needed"


def test_no_neighbour_is_expected_to_cost_less():
    plan = plan_scale(job(history=daily(noise=8.0), limits=Limits(least=0), num_futures=100, cold_start_s=1800.0))
    for one in plan.steps:
        assert one.cost <= one.cost_more + 1e-9
        assert one.cost_fewer is None or one.cost <= one.cost_fewer + 1e-9
        assert list(one.load) == sorted(one.load)
    assert 0 < plan.scaled[0].num_short_steps / plan.scaled[0].num_steps < 0.3


@pytest.mark.parametrize("policy", ["expected_cost", "reactive"])
def test_the_same_seed_plans_the_same(policy):
    noisy = job(history=daily(noise=8.0), policy=policy)
    assert plan_scale(noisy) == plan_scale(noisy)
    if policy == "expected_cost":
        assert plan_scale(noisy).steps != plan_scale(replace(noisy, seed=1)).steps


def test_following_demand_plans_what_the_newest_demand_needs():
    plan = plan_scale(job(policy="reactive"))
    newest = 52 - 40 * np.cos(2 * np.pi * 383 / 48)
    assert {one.replicas for one in plan.steps} == {int(np.ceil(newest / 10 / 0.8))}
    assert plan.scaled[0] == plan.scaled[1]


def test_a_network_is_trained_and_judged_beside_what_repeats():
    pytest.importorskip("zuko")
    told: list[str] = []
    plan = plan_scale(job(history=daily(noise=4.0), forecaster="harmony", horizon=4), told.append)
    assert list(plan.judged) == ["harmony", "naive", "seasonal"]
    assert plan.judged["harmony"].scores.crps < plan.judged["naive"].scores.crps
    assert plan.num_held == 77
    assert "307 steps" in told[0]


def test_a_short_history_is_refused_and_a_missing_season_left_out():
    with pytest.raises(InputError, match="Give at least 252 steps"):
        plan_scale(job(history=daily(5)))
    assert list(plan_scale(job(forecaster="naive", season_s=20 * 86_400)).judged) == ["naive"]
    with pytest.raises(InputError, match="a season of 960 steps needs 984"):
        plan_scale(job(season_s=20 * 86_400))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"unit": 0.0}, "unit"),
        ({"season_s": -1.0}, "season_s"),
        ({"horizon": 0}, "horizon"),
        ({"context": 0}, "context"),
    ],
)
def test_numbers_out_of_range_are_named(changes, field):
    with pytest.raises(ParamsError) as refused:
        job(**changes)
    assert refused.value.field == field


def test_an_autoscaler_is_told_what_may_come():
    raw = daily(4).raw
    foresight = train_foresight("seasonal", raw, Task(context=4, horizon=6, num_futures=7), 48)
    first = foresight.futures((), 3)
    assert [len(path) for path in first] == [3] * 7
    assert first[0] == pytest.approx(raw.values[:3, 0])
    later = foresight.futures(raw.values[:5, 0].tolist(), 6)
    assert later[0] == pytest.approx(raw.values[5:11, 0])
    with pytest.raises(ParamsError, match="6 that were trained"):
        foresight.futures((), 7)
