"""The boundary is found from either side, within the tolerance, in few questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.plan.goodput import goodput


@given(st.floats(0.05, 1e3), st.floats(0.1, 10.0), st.sampled_from([0.01, 0.1]), st.sampled_from([1.5, 2.0, 4.0]))
def test_the_boundary_is_met_and_within_the_tolerance(boundary, start, tolerance, factor):
    asked: list[float] = []

    def is_met(rate: float) -> bool:
        asked.append(rate)
        return rate <= boundary

    found = goodput(is_met, start_per_s=start, tolerance=tolerance, factor=factor)
    assert found <= boundary <= found * (1 + tolerance)
    assert len(asked) < 40


def test_nothing_is_met_and_everything_is():
    assert goodput(lambda rate: False) == 0.0
    with pytest.raises(ParamsError, match="rate"):
        goodput(lambda rate: True)
    with pytest.raises(ParamsError, match="tolerance"):
        goodput(lambda rate: rate < 3, tolerance=0)
    with pytest.raises(ParamsError, match="factor: 1 is not above 1"):
        goodput(lambda rate: rate < 3, factor=1)


def test_who_knows_the_answer_asks_less():
    def questions(start: float, factor: float) -> int:
        asked = []
        goodput(lambda rate: not asked.append(rate) and rate <= 10.5, start_per_s=start, tolerance=0.05, factor=factor)
        return len(asked)

    assert questions(10.0, 1.2) == 4
    assert questions(10.0, 2.0) == 6
    assert questions(1.0, 2.0) == 9
