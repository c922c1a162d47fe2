"""Measured tables: :class:`Grid` interpolates between the points that somebody measured, and says how well.

Interpolation is linear along each axis, which is how kernels grow with tokens; beyond the last point it goes on as
between the last two, and below the first it stays. The error that is told is of leaving out: every point between two
others is predicted from those two alone. As the gaps are then twice as wide, the true error is smaller.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from statistics import quantiles
from typing import final

from steelyard.core.errors import InputError

Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InterpolationError:
    """Relative errors of predicted points, over all that lie between two others.

    Attributes:
        num_points: that were predicted.
        median: of the errors.
        p90: nine of ten are at most this.
        worst: the greatest.
    """

    num_points: int
    median: float
    p90: float
    worst: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> InterpolationError:
        """Return what sums up ``errors``; all zero if there are none."""
        found = sorted(errors)
        if len(found) < 2:
            single = found[0] if found else 0.0
            return cls(len(found), single, single, single)
        deciles = quantiles(found, n=10, method="inclusive")
        return cls(len(found), deciles[4], deciles[8], found[-1])

    def __str__(self) -> str:
        return f"median {self.median:.1%}, P90 {self.p90:.1%}, worst {self.worst:.1%} of {self.num_points} points"


@final
class Grid:
    """Values at every combination of the points of some axes.

    Args:
        values: one per combination, by its coordinates.

    Raises:
        InputError: if there is none, or a combination is missing.
    """

    def __init__(self, values: Mapping[Point, float]) -> None:
        if not values:
            raise InputError("it has no rows", field="table", remedy="Give a table with measurements")
        self._axes = tuple(tuple(sorted(set(axis))) for axis in zip(*values, strict=True))
        self._strides = tuple(prod(len(axis) for axis in self._axes[place + 1 :]) for place in range(len(self._axes)))
        missing = next((point for point in product(*self._axes) if point not in values), None)
        if missing is not None:
            raise InputError(f"it has no value at {missing}", field="table", remedy="Give every combination")
        self._values = [values[point] for point in product(*self._axes)]

    @property
    def axes(self) -> tuple[tuple[float, ...], ...]:
        """Each axis's points, ascending."""
        return self._axes

    def at(self, *point: float) -> float:
        """Return the interpolated value at ``point``, one coordinate per axis."""
        corners = [(0, 1.0)]
        for axis, stride, coordinate in zip(self._axes, self._strides, point, strict=True):
            sides = _sides(axis, coordinate)
            corners = [(at + index * stride, share * part) for at, share in corners for index, part in sides]
        return sum(self._values[at] * share for at, share in corners)

    def error(self) -> InterpolationError:
        """Return how far every point between two others lies from the line between them, along each axis in turn."""
        return InterpolationError.of(error for place in range(len(self._axes)) for error in self._errors(place))

    def _errors(self, place: int) -> Iterable[float]:
        axis, stride = self._axes[place], self._strides[place]
        for at, true in enumerate(self._values):
            index = at // stride % len(axis)
            if 0 < index < len(axis) - 1 and true > 0:
                share = (axis[index] - axis[index - 1]) / (axis[index + 1] - axis[index - 1])
                guess = (1 - share) * self._values[at - stride] + share * self._values[at + stride]
                yield abs(guess - true) / true


def _sides(axis: Sequence[float], coordinate: float) -> tuple[tuple[int, float], ...]:
    """Return the indexes of the points beside ``coordinate`` with their shares; one where it is on a point."""
    if len(axis) == 1 or coordinate <= axis[0]:
        return ((0, 1.0),)
    index = min(bisect_right(axis, coordinate), len(axis) - 1)
    low, high = axis[index - 1], axis[index]
    if coordinate == low:
        return ((index - 1, 1.0),)
    share = (coordinate - low) / (high - low)
    return ((index - 1, 1.0 - share), (index, share))
