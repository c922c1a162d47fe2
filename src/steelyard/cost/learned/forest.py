"""A regression forest as plain arrays: predicted with numpy, kept as an ``.npz`` file, checked when it is read.

Whatever grew the trees is not needed any more, and a file of a stranger can do no more than predict wrongly. Growing
them is :mod:`steelyard.cost.learned.training`'s work.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ARRAYS = ("first_nodes", "features", "thresholds", "left", "right", "values")
LEAF = 0
"""What ``left`` and ``right`` hold at a leaf; no node has its tree's root for a child."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Forest:
    """Regression trees laid one after another.

    Attributes:
        feature_names: of the columns that a row has, in order.
        output_names: of the columns that a prediction has.
        first_nodes: ``[trees]``, where each tree's root is.
        features: ``[nodes]``, the column that a node looks at.
        thresholds: ``[nodes]``; a row goes left if its value is at most this, as 32-bit floats.
        left: ``[nodes]``, the child's number within its tree; :data:`LEAF` at a leaf, as in ``right``.
        right: likewise.
        values: ``[nodes, outputs]``, what a leaf answers.

    Raises:
        InputError: if the arrays are no forest: shapes that do not fit, a child that does not come after its parent,
            a column that there is not, a number that is not finite.
    """

    feature_names: tuple[str, ...]
    output_names: tuple[str, ...]
    first_nodes: Ints
    features: Ints
    thresholds: Floats
    left: Ints
    right: Ints
    values: Floats

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_nodes(self)

    def predict(self, rows: Floats) -> Floats:
        """Return the mean of the trees' answers, ``[rows, outputs]``, for ``rows`` of ``[rows, features]``.

        Raises:
            InputError: if the rows have another number of columns.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.feature_names):
            raise _wrong(f"rows of shape {rows.shape} do not have the {len(self.feature_names)} columns of the forest")
        narrow = rows.astype(np.float32).astype(np.float64)  # trees are grown on 32-bit values
        total = np.zeros((len(rows), len(self.output_names)))
        for first in self.first_nodes:
            total += self.values[self._leaves(narrow, int(first))]
        return total / len(self.first_nodes)

    def _leaves(self, rows: Floats, first: int) -> Ints:
        """Return the leaf that each row ends in, all rows going down one level at a time."""
        nodes = np.full(len(rows), first, dtype=np.int64)
        going = np.arange(len(rows))
        while going.size:
            at = nodes[going]
            inner = self.left[at] != LEAF
            going, at = going[inner], at[inner]
            goes_left = rows[going, self.features[at]] <= self.thresholds[at]
            nodes[going] = first + np.where(goes_left, self.left[at], self.right[at])
        return nodes

    def to_bytes(self) -> bytes:
        """Return the forest as the content of an ``.npz`` file."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["feature_names"] = np.array(self.feature_names, dtype=np.str_)
        arrays["output_names"] = np.array(self.output_names, dtype=np.str_)
        buffer = BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()


def load_forest(path: Path) -> Forest:
    """Return the forest of an ``.npz`` file; nothing in it is executed.

    Raises:
        InputError: if the file is missing, or holds no forest.
    """
    try:
        content = BytesIO(path.read_bytes())
    except OSError as error:
        raise InputError("cannot be read", field=str(path), remedy="Give the file that training wrote") from error
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            feature_names, output_names = (tuple(map(str, file[name])) for name in ("feature_names", "output_names"))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("holds no forest", field=str(path), remedy="Train it again") from error
    return Forest(feature_names=feature_names, output_names=output_names, **arrays)


def _check_shapes(forest: Forest) -> None:
    num_nodes, num_outputs = len(forest.features), len(forest.output_names)
    for name in ("features", "thresholds", "left", "right"):
        if getattr(forest, name).shape != (num_nodes,):
            raise _wrong(f"{name} are not one per node")
    for name in ("first_nodes", "features", "left", "right"):
        if not np.issubdtype(getattr(forest, name).dtype, np.integer):
            raise _wrong(f"{name} are not whole numbers")
    if forest.values.shape != (num_nodes, num_outputs) or not num_outputs:
        raise _wrong("values are not one per node and output")
    firsts = forest.first_nodes
    if firsts.ndim != 1 or not firsts.size or firsts[0] != 0 or (np.diff(firsts) <= 0).any() or firsts[-1] >= num_nodes:
        raise _wrong("trees do not follow one another")


def _check_nodes(forest: Forest) -> None:
    """Check that every walk ends: children come after their parent and stay within their tree."""
    numbers = np.arange(len(forest.features))
    tree = np.searchsorted(forest.first_nodes, numbers, side="right") - 1
    ends = np.append(forest.first_nodes, len(numbers))[tree + 1]
    within = numbers - forest.first_nodes[tree]
    leaf = forest.left == LEAF
    if (leaf != (forest.right == LEAF)).any():
        raise _wrong("a node has one child only")
    for children in (forest.left, forest.right):
        outside = (children <= within) | (forest.first_nodes[tree] + children >= ends)
        if (outside & ~leaf).any():
            raise _wrong("a child does not come after its parent in its tree")
    columns = forest.features[~leaf]
    if ((columns < 0) | (columns >= len(forest.feature_names))).any():
        raise _wrong("a node looks at a column that there is not")
    if not (np.isfinite(forest.thresholds[~leaf]).all() and np.isfinite(forest.values[leaf]).all()):
        raise _wrong("a number is not finite")


def _wrong(problem: str) -> InputError:
    return InputError(problem, field="forest", remedy="Train it again")
