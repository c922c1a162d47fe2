"""The boundary is found from either side, within the tolerance, in few questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.plan.goodput import goodput


@given(st.floats(0.05, 1e3), st.floats(0.1, 10.0), st.sampled_from([0.01, 0.1]))
def test_the_boundary_is_met_and_within_the_tolerance(boundary, start, tolerance):
    asked: list[float] = []

    def is_met(rate: float) -> bool:
        asked.append(rate)
        return rate <= boundary

    found = goodput(is_met, start_per_s=start, tolerance=tolerance)
    assert found <= boundary <= found * (1 + tolerance)
    assert len(asked) < 40


def test_nothing_is_met_and_everything_is():
    assert goodput(lambda rate: False) == 0.0
    with pytest.raises(ParamsError, match="rate"):
        goodput(lambda rate: True)
    with pytest.raises(ParamsError, match="tolerance"):
        goodput(lambda rate: rate < 3, tolerance=0)
