"""Series of several indicators at equal steps, brought to one scale without looking ahead.

Indicators of machines are skewed, and some only count upwards. Counters become what they grew by; everything is taken
as ``log(1 + x / typical)`` and standardised. What is typical, mean and deviation come from the training part alone.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TARGET = "load"
_PERIODS_S = (3_600, 86_400, 7 * 86_400)
CALENDAR_WIDTH = 2 * len(_PERIODS_S)
_MOST_OF_HIGHEST = 2.0
_COUNTER_SHARE = 0.97
"""Of steps on which an indicator does not fall, from which on it is a counter that was sometimes reset."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RawSeries:
    """What was measured.

    Attributes:
        name: of whatever was measured.
        indicators: names of the columns; the first is :data:`TARGET`.
        step_s: between rows.
        first_s: seconds from the beginning of a Monday, UTC, to the first row.
        values: ``[steps, indicators]``.
    """

    name: str
    indicators: tuple[str, ...]
    step_s: float
    first_s: float
    values: Floats


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Series:
    """A series on the forecasters' scale.

    Attributes:
        name: as measured.
        load: ``[steps]``, the target in its own unit.
        scaled: ``[steps, indicators]``; the first column is to be forecast.
        calendar: ``[steps and those ahead, 6]``: sine and cosine of the time within the hour, the day and the week.
        num_train: steps from the beginning that training may see.
        typical: of the target; see the module.
        mean: of the target's logarithm.
        deviation: likewise.
        most: load that is thought possible: twice the highest in training.
    """

    name: str
    load: Floats
    scaled: Floats
    calendar: Floats
    num_train: int
    typical: float
    mean: float
    deviation: float
    most: float

    def to_load(self, scaled: Floats) -> Floats:
        """Return values of the target in its own unit, from 0 to :attr:`most`, of any shape."""
        highest = np.log1p(self.most / self.typical)
        load: Floats = self.typical * np.expm1(np.clip(scaled * self.deviation + self.mean, 0, highest))
        return load


def scale_series(raw: RawSeries, num_train: int, num_ahead: int = 0) -> Series:
    """Return ``raw`` on the forecasters' scale.

    Args:
        raw: as measured.
        num_train: steps that training may see.
        num_ahead: steps after the last that may be forecast; their calendar is known.

    Raises:
        InputError: if there are too few steps to learn a scale from.
    """
    if not 2 <= num_train <= len(raw.values):
        problem = f"{num_train} of {len(raw.values)} steps cannot be trained with"
        raise InputError(problem, field=raw.name, remedy="Give a longer series")
    values = np.stack([_grown(column, num_train) for column in raw.values.T], axis=1)
    values[:, 0] = raw.values[:, 0]
    train = values[:num_train]
    typical = np.array([np.median(column[column > 0]) if (column > 0).any() else 1.0 for column in train.T])
    logs = np.log1p(np.maximum(values, 0) / typical)
    means, deviations = logs[:num_train].mean(axis=0), logs[:num_train].std(axis=0)
    deviations = np.where(deviations > 0, deviations, 1.0)
    return Series(
        name=raw.name,
        load=raw.values[:, 0],
        scaled=(logs - means) / deviations,
        calendar=_calendar(raw, len(raw.values) + num_ahead),
        num_train=num_train,
        typical=float(typical[0]),
        mean=float(means[0]),
        deviation=float(deviations[0]),
        most=_MOST_OF_HIGHEST * float(max(train[:, 0].max(), typical[0])),
    )


def _grown(column: Floats, num_train: int) -> Floats:
    """Return what a counter grew by in each step, 0 where it was reset; other columns as they are."""
    growth = np.diff(column, prepend=column[0])
    train = growth[1:num_train]
    is_counter = (train >= 0).mean() >= _COUNTER_SHARE and (train > 0).any()
    return np.maximum(growth, 0) if is_counter else column


def _calendar(raw: RawSeries, num_steps: int) -> Floats:
    seconds = raw.first_s + raw.step_s * np.arange(num_steps)
    angles = [2 * np.pi * seconds / period for period in _PERIODS_S]
    return np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)


def load_containers(data_dir: Path) -> tuple[RawSeries, ...]:
    """Return the containers that HARMONY was evaluated on: ``container*.csv.gz`` in a directory, by number.

    Raises:
        InputError: if there is none, or one cannot be read.
    """
    paths = sorted(data_dir.glob("container*.csv.gz"), key=lambda path: (len(path.name), path.name))
    if not paths:
        remedy = "Give --data the directory of container1.csv.gz … container10.csv.gz (Fisher data of HARMONY)"
        raise InputError("holds no containers", field=str(data_dir), remedy=remedy)
    return tuple(read_container(path) for path in paths)


def read_container(path: Path) -> RawSeries:
    """Return the series of one file: a date, :data:`TARGET`, other indicators; rows at equal steps.

    Raises:
        InputError: if it is no such file; it names the line.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            lines = list(rows)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", field=str(path), remedy="Give the file as published") from error
    if header[:2] != ["date", TARGET]:
        raise InputError("does not begin with date and load", field=str(path), remedy="Give the file as published")
    numbers = list(_parsed(path, lines, len(header)))
    times = [when.timestamp() for when, _ in numbers]
    steps = np.diff(times)
    if len(steps) < 1 or steps[0] <= 0 or (steps != steps[0]).any():
        raise InputError("has holes or is not in order", field=str(path), remedy="Fill the holes, sort by date")
    weekday, midnight = numbers[0][0].weekday(), numbers[0][0].replace(hour=0, minute=0, second=0)
    return RawSeries(
        name=path.name.split(".")[0],
        indicators=tuple(header[1:]),
        step_s=float(steps[0]),
        first_s=weekday * 86_400.0 + (numbers[0][0] - midnight).total_seconds(),
        values=np.array([values for _, values in numbers]),
    )


def _parsed(path: Path, lines: list[list[str]], width: int) -> Iterator[tuple[datetime, list[float]]]:
    for number, line in enumerate(lines, start=2):
        try:
            when, values = datetime.fromisoformat(line[0] + "+00:00"), [float(value) for value in line[1:]]
        except (ValueError, IndexError) as error:
            raise InputError(f"line {number} is no measurement", field=str(path), remedy="Correct it") from error
        if len(line) != width or not all(map(np.isfinite, values)):
            raise InputError(f"line {number} is not complete", field=str(path), remedy="Correct it")
        yield when, values


def origins(series: Series, first: int, horizon: int, stride: int) -> Ints:
    """Return the steps from ``first`` on at which forecasts of ``horizon`` steps begin, ``stride`` apart."""
    return np.arange(first, len(series.scaled) - horizon + 1, stride)


def windows(series: Series, starts: Ints, before: int, after: int) -> tuple[Floats, Floats, Floats]:
    """Return what is known and what comes at each of ``starts``.

    Returns:
        The past, ``[starts, before, indicators]``; the target to come, ``[starts, after]``; the calendar over both,
        ``[starts, before + after, 6]``.
    """
    places = starts[:, None] + np.arange(-before, after)
    return (
        series.scaled[places[:, :before]],
        series.scaled[places[:, before:], 0],
        series.calendar[places],
    )
