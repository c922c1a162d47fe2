"""Fitting with scikit-learn: forests, laid out as :class:`~steelyard.cost.learned.forest.Forest`, and what they are
compared with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steelyard.cost.learned.forest import LEAF, Floats, Forest

Predict = Callable[[Floats], Floats]
"""``[rows, features]`` → ``[rows]``."""
Learner = Callable[[Floats, Floats, int], Predict]
"""Rows, one target per row and a seed → what predicts."""

_NETWORK_EPOCHS = 300
_PENALTIES = np.logspace(-4, 4, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestConfig:
    """How a forest is grown.

    Attributes:
        num_trees: each grown on rows drawn with replacement.
        max_depth: levels below the root; ``None`` for no limit.
        min_leaf: training rows that a leaf holds at least.
        seed: of the rows drawn.
    """

    num_trees: int = 100
    max_depth: int | None = None
    min_leaf: int = 1
    seed: int = 0


def grow_forest(
    rows: Floats, targets: Floats, feature_names: Sequence[str], output_names: Sequence[str], config: ForestConfig
) -> Forest:
    """Return a random forest (Breiman 2001) whose leaves answer all outputs at once.

    Args:
        rows: ``[rows, features]``.
        targets: ``[rows, outputs]``.
        feature_names: of the columns of ``rows``.
        output_names: of the columns of ``targets``.
        config: how it is grown.
    """
    grown = RandomForestRegressor(
        n_estimators=config.num_trees,
        max_depth=config.max_depth,
        min_samples_leaf=config.min_leaf,
        random_state=config.seed,
    ).fit(rows, targets if targets.shape[1] > 1 else targets[:, 0])
    trees = [estimator.tree_ for estimator in grown.estimators_]

    def joined(name: str, at_leaf: float) -> Floats:
        """Return one array of all trees; scikit-learn marks leaves with negative numbers."""
        arrays = [np.where(tree.children_left < 0, at_leaf, getattr(tree, name)) for tree in trees]
        return np.concatenate(arrays)

    return Forest(
        feature_names=tuple(feature_names),
        output_names=tuple(output_names),
        first_nodes=np.cumsum([0, *(tree.node_count for tree in trees[:-1])]).astype(np.int64),
        features=joined("feature", 0).astype(np.int64),
        thresholds=joined("threshold", 0.0),
        left=joined("children_left", LEAF).astype(np.int64),
        right=joined("children_right", LEAF).astype(np.int64),
        values=np.concatenate([tree.value[:, :, 0] for tree in trees]),
    )


def fit_forest(rows: Floats, target: Floats, seed: int) -> Predict:
    """Fit a :class:`~steelyard.cost.learned.forest.Forest` of one output."""
    names = [str(column) for column in range(rows.shape[1])]
    forest = grow_forest(rows, target[:, None], names, ["target"], ForestConfig(seed=seed))
    return lambda more: forest.predict(more)[:, 0]


def fit_boosted_trees(rows: Floats, target: Floats, seed: int) -> Predict:
    """Fit gradient-boosted trees (scikit-learn's on histograms; XGBoost's wheel brings CUDA libraries along)."""
    fitted = HistGradientBoostingRegressor(random_state=seed, min_samples_leaf=min(20, max(1, len(rows) // 20)))
    return _predict(fitted.fit(rows, target))


def fit_ridge(rows: Floats, target: Floats, seed: int) -> Predict:
    """Fit a linear model on standardised columns, its penalty chosen by leaving one row out; nothing is random."""
    return _predict(make_pipeline(StandardScaler(), RidgeCV(alphas=_PENALTIES)).fit(rows, target))


def fit_network(rows: Floats, target: Floats, seed: int) -> Predict:
    """Fit a plain network of two hidden layers to the standardised target."""
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64), learning_rate_init=3e-3, max_iter=_NETWORK_EPOCHS, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is what is meant
        fitted = TransformedTargetRegressor(network, transformer=StandardScaler()).fit(rows, target)
    return _predict(fitted)


def _predict(fitted: object) -> Predict:
    return lambda rows: np.asarray(fitted.predict(rows), dtype=np.float64)  # type: ignore[attr-defined]


LEARNERS: dict[str, Learner] = {
    "random forest": fit_forest,
    "boosted trees": fit_boosted_trees,
    "ridge": fit_ridge,
}
