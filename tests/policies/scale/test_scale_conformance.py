"""What every registered scaling policy must do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.policies.scale import SCALE_POLICIES, make_scale_policy
from steelyard.policies.scale.types import ScalePolicy, ScaleView

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("expected_cost", {}),
    ("expected_cost", {"idle_cost": 2.0, "missing_cost": 1.0, "prior_weight": None}),
    ("expected_cost", {"prior_weight": 3.0}),
    ("reactive", {}),
    ("reactive", {"utilisation": 0.5}),
]
demands = st.floats(0, 50, allow_nan=False)


@st.composite
def views(draw: st.DrawFn) -> list[ScaleView]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        horizon = draw(st.integers(1, 4))
        futures = draw(st.lists(st.lists(demands, min_size=horizon, max_size=horizon).map(tuple), max_size=5))
        seen = tuple(draw(st.lists(demands, max_size=4)))
        found.append(ScaleView(num_replicas=draw(st.integers(0, 60)), demands=seen, forecast=tuple(futures)))
    return found


def decided(policy: ScalePolicy, shown: list[ScaleView]) -> list[int]:
    return [policy.decide(view) for view in shown]


def test_every_registered_policy_is_under_test():
    assert {name for name, _ in VARIANTS} == SCALE_POLICIES.keys()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(shown=views(), least=st.integers(0, 5), span=st.integers(0, 20))
def test_it_keeps_to_its_limits_and_decides_the_same_again(name, options, shown, least, span):
    make = {**options, "min_replicas": least, "max_replicas": least + span}
    first = decided(make_scale_policy(name, **make), shown)
    assert first == decided(make_scale_policy(name, **make), shown)
    assert all(isinstance(count, int) and least <= count <= least + span for count in first)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(shown=views())
def test_it_changes_nothing_that_it_was_shown(name, options, shown):
    before = copy.deepcopy(shown)
    decided(make_scale_policy(name, **options), shown)
    assert shown == before


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(demand=st.integers(1, 30), futures=st.integers(1, 6))
def test_a_demand_that_is_certain_is_covered(name, options, demand, futures):
    view = ScaleView(num_replicas=0, demands=(float(demand),), forecast=((float(demand),),) * futures)
    assert make_scale_policy(name, **options).decide(view) >= demand


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("limits", [{"min_replicas": -1}, {"min_replicas": 3, "max_replicas": 2}])
def test_limits_that_contradict_each_other_are_refused(name, options, limits):
    with pytest.raises(ParamsError) as refused:
        make_scale_policy(name, **options, **limits)
    assert refused.value.field == "min_replicas"
