"""Grids of measured values: exact at their points, linear between, and honest about their errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.tables import Grid, InterpolationError

_PLANE = Grid({(x, y): 2.0 * x + 3.0 * y + 1.0 for x in (0.0, 1.0, 4.0) for y in (1.0, 10.0, 100.0)})


@given(st.floats(0, 50), st.floats(1, 1000))
def test_a_plane_is_met_between_its_points_and_beyond_the_last(x, y):
    assert _PLANE.at(x, y) == pytest.approx(2.0 * x + 3.0 * y + 1.0)


def test_below_the_first_point_the_value_stays():
    assert _PLANE.at(-5.0, 0.0) == _PLANE.at(0.0, 1.0)


def test_points_are_met_exactly():
    grid = Grid({(1.0,): 5.0, (2.0,): 0.1, (3.0,): 7.0})
    assert [grid.at(x) for x in (1, 2, 3)] == [5.0, 0.1, 7.0]


def test_an_axis_of_one_point_does_not_matter():
    grid = Grid({(1.0, 8.0): 5.0, (2.0, 8.0): 6.0})
    assert grid.at(1.5, 0.0) == grid.at(1.5, 99.0) == 5.5


def test_errors_are_of_the_points_between_others():
    assert _PLANE.error().worst == pytest.approx(0.0)
    error = Grid({(0.0,): 0.0, (1.0,): 1.0, (2.0,): 4.0, (3.0,): 9.0}).error()
    assert error.num_points == 2
    assert error.worst == pytest.approx(1.0)  # 2 instead of 1
    assert error.median == pytest.approx((1.0 + 0.25) / 2)
    assert str(error).endswith("worst 100.0% of 2 points")


def test_too_few_points_for_an_error():
    assert Grid({(0.0,): 1.0}).error() == InterpolationError(0, 0.0, 0.0, 0.0)
    assert InterpolationError.of([0.5]) == InterpolationError(1, 0.5, 0.5, 0.5)


def test_holes_and_empty_tables_are_refused():
    with pytest.raises(InputError, match="no rows"):
        Grid({})
    with pytest.raises(InputError, match=r"no value at \(1.0, 1.0\)"):
        Grid({(0.0, 0.0): 1.0, (0.0, 1.0): 1.0, (1.0, 0.0): 1.0})
