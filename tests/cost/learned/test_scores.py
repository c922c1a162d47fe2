"""Errors by hand, and folds that hold out every row once, groups whole."""

import numpy as np
import pytest

from steelyard.cost.learned.scores import group_folds, row_folds, scores


def test_errors_by_hand():
    found = scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found.r2 == pytest.approx(1 - 9 / 2)
    assert found.mean_error == pytest.approx(1 / 3)
    assert found.median_error == 0
    assert str(found) == "R² -3.500, error mean 33.3%, median 0.0%"
    assert scores(np.ones(3), np.ones(3)).r2 == 0  # nothing to explain


def test_each_row_is_held_out_once_and_never_trained_with():
    folds = list(row_folds(10, 3, seed=0))
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(10))
    for fold in folds:
        assert sorted([*fold.train, *fold.held_out]) == list(range(10))
    again = list(row_folds(10, 3, seed=0))
    assert all(np.array_equal(one.held_out, other.held_out) for one, other in zip(folds, again, strict=True))


def test_groups_stay_together():
    groups = np.array([0, 1, 2, 3] * 5)
    folds = list(group_folds(groups, 2, seed=1))
    assert len(folds) == 2
    for fold in folds:
        assert not set(groups[fold.train]) & set(groups[fold.held_out])
