"""How far predictions are from what was measured, in the numbers that papers quote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.learned.forest import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Errors over some measurements.

    Attributes:
        r2: share of the measurements' variance that the predictions explain; below 0 if their mean would do better.
        mean_error: mean of |predicted − measured| / measured.
        median_error: median of it.
    """

    r2: float
    mean_error: float
    median_error: float

    def __str__(self) -> str:
        return f"R² {self.r2:.3f}, error mean {self.mean_error:.1%}, median {self.median_error:.1%}"


def scores(measured: Floats, predicted: Floats) -> Scores:
    """Return the errors of ``predicted`` beside ``measured``, both ``[n]`` and measured above 0."""
    relative = np.abs(predicted - measured) / measured
    spread = float(np.sum((measured - measured.mean()) ** 2))
    missed = float(np.sum((measured - predicted) ** 2))
    return Scores(
        r2=1 - missed / spread if spread else 0.0,
        mean_error=float(relative.mean()),
        median_error=float(np.median(relative)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Numbers of the rows to train with, and of those held out."""

    train: Ints
    held_out: Ints


def row_folds(num_rows: int, num_folds: int, seed: int) -> Iterator[Fold]:
    """Yield folds that hold out each row once, whatever it resembles."""
    return group_folds(np.arange(num_rows), num_folds, seed)


def group_folds(groups: NDArray[np.int64], num_folds: int, seed: int) -> Iterator[Fold]:
    """Yield folds that hold out each group of rows once, all of it together.

    Args:
        groups: ``[rows]``, the group of each.
        num_folds: at most as many as groups.
        seed: of which groups go together.
    """
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    for part in np.array_split(names, num_folds):
        held_out = np.isin(groups, part)
        yield Fold(np.flatnonzero(~held_out), np.flatnonzero(held_out))
