"""What every registered capping policy must do: any course of the row's power through each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.policies.cap import CAP_POLICIES, make_cap_policy

SHARES = st.lists(st.floats(0.0, 1.5), min_size=1, max_size=60)


@pytest.mark.parametrize("name", CAP_POLICIES)
@given(shares=SHARES)
def test_caps_are_shares_of_the_clock_and_an_exceeded_budget_brakes(name, shares):
    policy = make_cap_policy(name)
    for share in shares:
        caps = policy(share)
        assert 0.0 < caps.low <= caps.high <= 1.0
        assert caps.brake or share < 1.0


@pytest.mark.parametrize("name", CAP_POLICIES)
@given(shares=SHARES)
def test_an_idle_row_runs_at_its_full_clock_whatever_was_before(name, shares):
    policy = make_cap_policy(name)
    for share in shares:
        policy(share)
    caps = policy(0.0)
    assert (caps.low, caps.high, caps.brake) == (1.0, 1.0, False)


@pytest.mark.parametrize("name", CAP_POLICIES)
@given(shares=SHARES)
def test_the_same_course_gets_the_same_caps(name, shares):
    one, other = make_cap_policy(name), make_cap_policy(name)
    assert [one(share) for share in shares] == [other(share) for share in shares]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ParamsError, match="polca"):
        make_cap_policy("polka")
