"""A forest is plain arrays: what they answer, what a file keeps of them, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.learned.forest import Forest, load_forest

# Two trees over (x, y): the first asks x ≤ 1, then y ≤ 2 on the right; the second is a leaf.
FOREST = Forest(
    feature_names=("x", "y"),
    output_names=("a", "b"),
    first_nodes=np.array([0, 5]),
    features=np.array([0, 0, 1, 0, 0, 0]),
    thresholds=np.array([1.0, 0.0, 2.0, 0.0, 0.0, 0.0]),
    left=np.array([1, 0, 3, 0, 0, 0]),
    right=np.array([2, 0, 4, 0, 0, 0]),
    values=np.array([[0, 0], [1, 10], [0, 0], [3, 30], [5, 50], [7, 70]], dtype=float),
)


def test_answers_are_means_of_leaves():
    rows = np.array([[1.0, 9.0], [2.0, 2.0], [2.0, 2.5]])
    assert FOREST.predict(rows).tolist() == [[4, 40], [5, 50], [6, 60]]
    assert FOREST.predict(np.empty((0, 2))).shape == (0, 2)


@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), max_size=20))
def test_rows_do_not_depend_on_their_neighbours(rows):
    table = np.array(rows).reshape(-1, 2)
    alone = [FOREST.predict(row[None])[0] for row in table]
    assert FOREST.predict(table).tolist() == [found.tolist() for found in alone]


def test_a_file_keeps_the_forest(tmp_path: Path):
    path = tmp_path / "forest.npz"
    path.write_bytes(FOREST.to_bytes())
    read = load_forest(path)
    rows = np.random.default_rng(0).normal(size=(50, 2)) * 3
    assert np.array_equal(read.predict(rows), FOREST.predict(rows))
    assert (read.feature_names, read.output_names) == (FOREST.feature_names, FOREST.output_names)


@pytest.mark.parametrize("content", [b"", b"no archive", FOREST.to_bytes()[:200]])
def test_files_that_hold_no_forest_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "forest.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no forest"):
        load_forest(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_forest(tmp_path / "none.npz")


def test_pickled_objects_are_never_opened(tmp_path: Path):
    path = tmp_path / "forest.npz"
    np.savez(path, first_nodes=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="holds no forest"):
        load_forest(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"left": np.array([0, 0, 3, 0, 0, 0])}, "one child only"),
        ({"left": np.array([1, 0, 2, 0, 0, 0])}, "does not come after"),
        ({"right": np.array([2, 0, 5, 0, 0, 0])}, "does not come after"),
        ({"features": np.array([0, 0, 2, 0, 0, 0])}, "a column that there is not"),
        ({"features": np.array([0.0, 0, 1, 0, 0, 0])}, "whole numbers"),
        ({"thresholds": np.array([np.nan, 0, 2, 0, 0, 0])}, "not finite"),
        ({"values": np.full((6, 2), np.inf)}, "not finite"),
        ({"values": np.zeros((6, 1))}, "one per node and output"),
        ({"thresholds": np.zeros(5)}, "thresholds are not one per node"),
        ({"first_nodes": np.array([0, 0])}, "do not follow one another"),
        ({"first_nodes": np.array([1])}, "do not follow one another"),
    ],
)
def test_arrays_that_are_no_forest_are_refused(change, problem):
    with pytest.raises(InputError, match=problem):
        replace(FOREST, **change)


def test_rows_of_another_width_are_refused():
    with pytest.raises(InputError, match="2 columns"):
        FOREST.predict(np.zeros((3, 1)))
