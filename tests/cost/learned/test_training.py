"""What scikit-learn grew and what is laid out as arrays answer alike; learners learn, and nothing is random twice."""

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn.ensemble")

from steelyard.cost.learned.training import LEARNERS, ForestConfig, grow_forest  # noqa: E402

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 3))
TARGETS = np.stack([ROWS[:, 0] * 2 + ROWS[:, 1], np.abs(ROWS[:, 2])], axis=1)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_the_arrays_answer_what_scikit_learn_answers(num_outputs):
    config = ForestConfig(num_trees=7, max_depth=5, min_leaf=2, seed=3)
    forest = grow_forest(ROWS, TARGETS[:, :num_outputs], "xyz", "ab"[:num_outputs], config)
    theirs = sklearn.RandomForestRegressor(7, max_depth=5, min_samples_leaf=2, random_state=3)
    target = TARGETS if num_outputs == 2 else TARGETS[:, 0]
    more = RNG.normal(size=(100, 3))
    expected = theirs.fit(ROWS, target).predict(more).reshape(100, num_outputs)
    assert np.allclose(forest.predict(more), expected, rtol=1e-12)


def test_trees_that_are_leaves_are_forests_too():
    forest = grow_forest(ROWS, np.ones((200, 1)), "xyz", "a", ForestConfig(num_trees=3))
    assert forest.predict(ROWS[:5]).tolist() == [[1.0]] * 5


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn_and_repeat_themselves(name):
    target, more = TARGETS[:, 0], RNG.normal(size=(50, 3))
    found = LEARNERS[name](ROWS, target, 1)(more)
    assert np.array_equal(found, LEARNERS[name](ROWS, target, 1)(more))
    assert np.corrcoef(found, more[:, 0] * 2 + more[:, 1])[0, 1] > 0.9
