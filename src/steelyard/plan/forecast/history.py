"""Reading a load's history: :func:`read_history` of a CSV or Parquet file, brought to equal steps.

The first column is the time, the others are indicators, of which the first is the load. Nothing is guessed: what is out
of order, missing, negative or beyond all reason is an error that names the line and what to do. Rows may be averaged
over longer steps, and short holes filled, if the caller asks for it.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.core.errors import InputError, ResourceError, StorageError
from steelyard.core.names import pick
from steelyard.plan.forecast.series import TARGET, RawSeries
from steelyard.sim.traces.lines import Row, csv_rows, open_text

_MONDAY_S = 4 * 86_400  # the first one of 1970
_WEEK_S = 7 * 86_400
_LATEST_S = 1e11  # seconds since 1970 are below, milliseconds above
_OFF_GRID = 0.01  # of a step
_OFTEN, _ABSURD = 0.9, 1000.0
"""A value is absurd if it is so many times what this share of the column's positive values stays below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """How to read a history.

    Attributes:
        columns: indicators to read, the load first; none for all but the time.
        every_s: seconds per step, over which rows are averaged; ``None`` for the rows as they are.
        fill: steps of a hole that may take the values before it.
    """

    columns: tuple[str, ...] = ()
    every_s: float | None = None
    fill: int = 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class History:
    """A load's history.

    Attributes:
        raw: at equal steps.
        load: what the file calls its first indicator.
        start_s: of the first step, seconds since 1970, UTC.
        num_filled: steps that were holes.
    """

    raw: RawSeries
    load: str
    start_s: float
    num_filled: int

    @property
    def end_s(self) -> float:
        """When the step after the last one begins, seconds since 1970."""
        return self.start_s + len(self.raw.values) * self.raw.step_s


@dataclass(frozen=True, slots=True)
class _Measured:
    """One row: where it stands, when it was measured, and what."""

    row: Row
    at_s: float
    values: tuple[float, ...]


def read_history(path: Path, config: HistoryConfig | None = None) -> History:
    """Return the history in a file; by its name Parquet, else CSV, perhaps gzipped.

    Raises:
        InputError: if a column is not known, or a row cannot be used; it names the line and the remedy.
        StorageError: if the file cannot be read.
        ResourceError: if a Parquet file is given and pyarrow is not installed.
    """
    how = config or HistoryConfig()
    names, rows = _table(path)
    time, *indicators = names
    chosen = [pick({one: one for one in indicators}, name, field="column") for name in how.columns] or indicators
    if not chosen or len(set(chosen)) < len(chosen):
        told = "it has a time and no load" if not chosen else "one is named twice"
        raise InputError(told, field="column" if chosen else str(path), remedy="Give each indicator once, load first")
    measured = list(_measured(rows, time, chosen))
    if len(measured) < 2:
        raise InputError("it has less than two rows", field=str(path), remedy="Give a longer history")
    _check_order(measured, time, may_repeat=how.every_s is not None)
    _check_size(measured, chosen)
    steps, step_s = _by_step(measured, time, how.every_s)
    values, num_filled = _without_holes(steps, how.fill, time)
    start_s = steps[0][0] * step_s if how.every_s is not None else measured[0].at_s
    raw = RawSeries(
        name=path.name.split(".")[0],
        indicators=(TARGET, *chosen[1:]),
        step_s=step_s,
        first_s=(start_s - _MONDAY_S) % _WEEK_S,
        values=np.array(values),
    )
    return History(raw=raw, load=chosen[0], start_s=start_s, num_filled=num_filled)


def _table(path: Path) -> tuple[Sequence[str], Iterator[Row]]:
    """Return the names of a file's columns, and its rows."""
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        with open_text(path) as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, EOFError) as error:
        raise InputError("it is no text", field=str(path), remedy="Give a CSV or .parquet file") from error
    if len(set(names)) < max(2, len(names)):
        problem = "its first line does not name a time and at least one indicator, each once"
        raise InputError(problem, field=f"{path}:1", remedy="Give a header, e.g. time,load")
    return names, csv_rows(path, *names)


def _parquet(path: Path) -> tuple[Sequence[str], Iterator[Row]]:
    if find_spec("pyarrow") is None:
        remedy = "Run: pip install pyarrow, or give CSV"
        raise ResourceError("pyarrow is not installed, which reads Parquet", field=str(path), remedy=remedy)
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except OSError as error:
        raise StorageError(f"it cannot be read: {error}", field=str(path), remedy="Give a file that is there") from None
    except arrow.ArrowInvalid as error:
        raise InputError(f"it is no Parquet ({error})", field=str(path), remedy="Give a whole file") from None
    if len(table.column_names) < 2:
        raise InputError("it has no time and load", field=str(path), remedy="Give both as columns") from None
    records: list[Mapping[str, Any]] = table.to_pylist()
    return table.column_names, (Row(one, f"{path}: row {number}") for number, one in enumerate(records, 1))


def _measured(rows: Iterator[Row], time: str, columns: Sequence[str]) -> Iterator[_Measured]:
    for row in rows:
        yield _Measured(row, _seconds(row, time), tuple(_amount(row, name) for name in columns))


def _seconds(row: Row, field: str) -> float:
    """Return a time in seconds since 1970: a number of them, or a date, in UTC unless it says otherwise."""
    value = row.value(field)
    if not isinstance(value, datetime):
        try:
            value = datetime.fromisoformat(str(value).strip())
        except ValueError:
            return _unix_seconds(row, field)
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()


def _unix_seconds(row: Row, field: str) -> float:
    try:
        seconds = row.number(field)
    except InputError:
        remedy = "Give YYYY-MM-DD HH:MM:SS or seconds since 1970"
        raise row.error(field, f"{row.value(field)!r} is no time", remedy) from None
    if not 0 <= seconds < _LATEST_S:
        remedy = "Give seconds since 1970, not milliseconds, or YYYY-MM-DD HH:MM:SS"
        raise row.error(field, f"{seconds:g} s are out of this age", remedy)
    return seconds


def _amount(row: Row, field: str) -> float:
    amount = row.number(field)
    if amount < 0:
        raise row.error(field, f"{amount:g} is negative", "Correct it, or remove the line and give --fill")
    return amount


def _check_order(measured: Sequence[_Measured], time: str, *, may_repeat: bool) -> None:
    for before, one in pairwise(measured):
        if one.at_s < before.at_s:
            raise one.row.error(time, "it is earlier than the line before", "Sort the lines by time")
        if one.at_s == before.at_s and not may_repeat:
            remedy = "Remove one of them, or average over steps with --every"
            raise one.row.error(time, "it is that of the line before", remedy)


def _check_size(measured: Sequence[_Measured], columns: Sequence[str]) -> None:
    """Refuse single values that cannot have been measured; all rows together say what can."""
    values = np.array([one.values for one in measured])
    for column, name in enumerate(columns):
        positive = values[values[:, column] > 0, column]
        if not len(positive):
            continue
        often = float(np.quantile(positive, _OFTEN))
        worst = int(values[:, column].argmax())
        if values[worst, column] > _ABSURD * often:
            problem = f"{values[worst, column]:g} is absurd: {_OFTEN:.0%} of the values are below {often:g}"
            remedy = "Correct it, or remove the line and give --fill"
            raise measured[worst].row.error(name, problem, remedy)


_Step = tuple[int, _Measured, tuple[float, ...]]
"""Number of a step, its first row, and its values."""


def _by_step(measured: Sequence[_Measured], time: str, every_s: float | None) -> tuple[list[_Step], float]:
    """Return the steps that rows fall into, and how long they are."""
    gaps = [later.at_s - one.at_s for one, later in pairwise(measured)]
    usual_s = Counter(gap for gap in gaps if gap > 0).most_common(1)[0][0] if any(gaps) else math.inf
    if every_s is None:
        return [(_place(one, measured[0], usual_s, time), one, one.values) for one in measured], usual_s
    if every_s < usual_s < math.inf:
        problem = f"{every_s:g} s are less than the {usual_s:g} s between most lines"
        raise InputError(problem, field="every", remedy=f"Give at least {usual_s:g}")
    groups = [(number, list(rows)) for number, rows in groupby(measured, lambda one: int(one.at_s // every_s))]
    means = [tuple(np.mean([one.values for one in rows], axis=0).tolist()) for _, rows in groups]
    return [(number, rows[0], mean) for (number, rows), mean in zip(groups, means, strict=True)], every_s


def _place(one: _Measured, first: _Measured, step_s: float, time: str) -> int:
    """Return the number of the step that a row is, if it is one."""
    exact = (one.at_s - first.at_s) / step_s
    if abs(exact - round(exact)) > _OFF_GRID:
        problem = f"it is between two steps; most lines are {step_s:g} s apart"
        raise one.row.error(time, problem, "Average over even steps with --every, or correct it")
    return round(exact)


def _without_holes(steps: Sequence[_Step], fill: int, time: str) -> tuple[list[tuple[float, ...]], int]:
    """Return the values of all steps, and how many were holes."""
    values, num_filled = [steps[0][2]], 0
    for (before, _, known), (number, first, own) in pairwise(steps):
        missing = number - before - 1
        if missing < 0:
            raise first.row.error(time, "its step is that of the line before", "Remove one of the two lines")
        if missing > fill:
            problem = f"{missing} steps are missing before it"
            raise first.row.error(time, problem, f"Add them, or repeat the values before with --fill {missing}")
        values += [known] * missing + [own]
        num_filled += missing
    return values, num_filled
