"""What each scaling policy promises by itself."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.policies.scale import make_scale_policy
from steelyard.policies.scale.expected_cost import believed_level, cheapest_count, make_expected_cost
from steelyard.policies.scale.types import ScaleView


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    idle=st.sampled_from([1.0, 2.0, 5.0]),
    missing=st.sampled_from([1.0, 3.0, 10.0]),
)
def test_the_cheapest_count_is_the_cheapest_of_all(counts, idle, missing):
    def cost(count: int) -> float:
        return sum(idle * max(0, count - one) + missing * max(0, one - count) for one in counts)

    found = cheapest_count(sorted(map(float, counts)), missing / (missing + idle))
    assert cost(found) == pytest.approx(min(map(cost, range(13))))


def test_without_demands_nothing_is_needed():
    assert cheapest_count([], 0.9) == 0


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.05, 0.95), st.floats(0.5, 300))
def test_the_believed_level_covers_the_wanted_share(ranks, wanted, weight):
    level = believed_level(wanted, ranks, weight)
    assert 0 <= level <= 1

    def covered(at: float) -> float:
        return (weight * at + sum(rank <= at for rank in ranks)) / (weight + len(ranks))

    assert covered(level) >= wanted - 1e-9
    if level > 1e-6:
        assert covered(level - 1e-6) <= wanted + 1e-9, "and no lower one does"


def test_a_forecast_that_was_always_too_low_is_doubted():
    def counts(prior_weight: float | None) -> list[int]:
        policy = make_scale_policy("expected_cost", missing_cost=1.0, prior_weight=prior_weight)
        futures = tuple((float(demand),) for demand in range(1, 11))
        views = [ScaleView(num_replicas=1, demands=(9.5,), forecast=futures) for _ in range(60)]
        return [policy.decide(view) for view in views]

    doubting, trusting = counts(20.0), counts(None)
    assert set(trusting) == {5}
    assert doubting[0] == 5
    assert doubting[-1] > 7
    assert all(later >= earlier for earlier, later in pairwise(doubting))


def test_reactive_follows_the_highest_demand_and_else_leaves_things():
    policy = make_scale_policy("reactive", utilisation=0.8, max_replicas=100)
    assert policy.decide(ScaleView(num_replicas=7, demands=())) == 7
    assert policy.decide(ScaleView(num_replicas=7, demands=(2.0, 4.1, 3.0))) == math.ceil(4.1 / 0.8)


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("expected_cost", {"idle_cost": 0}, "idle_cost"),
        ("expected_cost", {"missing_cost": -1}, "missing_cost"),
        ("expected_cost", {"prior_weight": 0}, "prior_weight"),
        ("reactive", {"utilisation": 0}, "utilisation"),
        ("nobody", {}, "scale_policy"),
    ],
)
def test_wrong_options_are_named(name, options, field):
    with pytest.raises(ParamsError) as refused:
        make_scale_policy(name, **options)
    assert refused.value.field == field


def test_the_forecast_counts_and_not_the_past_where_there_is_one():
    futures = tuple((float(x),) for x in np.linspace(1, 4, 40))
    policy = make_scale_policy("expected_cost", missing_cost=9.0, prior_weight=None)
    assert policy.decide(ScaleView(num_replicas=50, demands=(50.0,), forecast=futures)) == 4
    assert policy.decide(ScaleView(num_replicas=50, demands=(50.0,))) == 50


@given(
    futures=st.lists(st.floats(0, 9), min_size=5, max_size=5),
    seen=st.lists(st.floats(0, 12), max_size=12),
    prior_weight=st.sampled_from([None, 0.5, 4.0, 200.0]),
    missing=st.sampled_from([1.0, 3.0, 10.0]),
)
def test_no_other_number_is_expected_to_cost_less_than_the_decided_one(futures, seen, prior_weight, missing):
    policy = make_expected_cost(missing_cost=missing, prior_weight=prior_weight, min_replicas=0)
    forecast = tuple((one,) for one in futures)
    for demand in [1.0, *seen]:
        decided = policy.decide(ScaleView(num_replicas=0, demands=(demand,), forecast=forecast))
    costs = [policy.expected_cost(forecast, count) for count in range(15)]
    assert costs[decided] == pytest.approx(min(costs))


def test_expected_cost_by_hand():
    policy = make_expected_cost(idle_cost=1.0, missing_cost=10.0, prior_weight=2.0, min_replicas=0)
    forecast = ((1.0,), (2.0,), (3.0,), (4.0,))
    policy.decide(ScaleView(num_replicas=0, demands=(), forecast=forecast))
    assert policy.expected_cost(forecast, 3) == (2 + 1 + 0 + 10) / 4
    policy.decide(ScaleView(num_replicas=3, demands=(3.5,), forecast=forecast))
    assert policy.expected_cost(forecast, 3) == (2 * 13 / 4 + 0) / 3, "a demand at rank 3/4 stands for the third"
