"""Series: read, checked, and brought to one scale without looking ahead."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forecast_series import made_up

from steelyard.core.errors import InputError
from steelyard.plan.forecast.series import load_containers, origins, read_container, scale_series, windows

ROWS = [f"2024-01-02 00:{minute:02}:00,{minute}.5,{minute * 2}" for minute in range(0, 60, 10)]


def written(path: Path, rows: list[str], header: str = "date,load,container_cpu") -> Path:
    path.write_bytes(gzip.compress("\n".join([header, *rows]).encode()))
    return path


def test_a_file_is_read(tmp_path):
    raw = read_container(written(tmp_path / "container1.csv.gz", ROWS))
    assert (raw.name, raw.indicators, raw.step_s) == ("container1", ("load", "container_cpu"), 600.0)
    assert raw.first_s == 86_400, "the second of January 2024 was a Tuesday"
    assert raw.values.tolist()[:2] == [[0.5, 0.0], [10.5, 20.0]]
    written(tmp_path / "container10.csv.gz", ROWS)
    written(tmp_path / "container2.csv.gz", ROWS)
    assert [one.name for one in load_containers(tmp_path)] == ["container1", "container2", "container10"]


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        (ROWS[:2] + ROWS[3:], "date,load,container_cpu", "holes"),
        (ROWS[::-1], "date,load,container_cpu", "not in order"),
        ([*ROWS[:2], "2024-01-02 00:20:00,x,1"], "date,load,container_cpu", "line 4"),
        ([*ROWS[:2], "2024-01-02 00:20:00,nan,1"], "date,load,container_cpu", "line 4"),
        ([*ROWS[:2], "2024-01-02 00:20:00,1"], "date,load,container_cpu", "line 4"),
        (ROWS, "when,load,container_cpu", "date and load"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, rows, header, problem):
    with pytest.raises(InputError, match=problem):
        read_container(written(tmp_path / "container1.csv.gz", rows, header))


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(InputError, match="no containers"):
        load_containers(tmp_path)
    (tmp_path / "container1.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot be read"):
        load_containers(tmp_path)


def test_the_scale_comes_from_training_alone_and_goes_back():
    raw = made_up()
    later = raw.values.copy()
    later[900:] *= 100
    scaled, other = scale_series(raw, 900), scale_series(replace(raw, values=later), 900)
    assert np.array_equal(scaled.scaled[:900], other.scaled[:900])
    assert (scaled.typical, scaled.mean, scaled.deviation) == (other.typical, other.mean, other.deviation)
    assert scaled.scaled[:900].mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    assert scaled.to_load(scaled.scaled[:, 0]) == pytest.approx(raw.values[:, 0])
    assert scaled.to_load(np.array([1e6])) == pytest.approx([scaled.most])


def test_counters_become_what_they_grew_by():
    raw = made_up(300)
    counted = np.concatenate([np.arange(150.0), np.arange(150.0)])
    values = np.stack([raw.values[:, 0], counted, raw.values[:, 2]], axis=1)
    series = scale_series(replace(raw, values=values), 240)
    assert len(np.unique(series.scaled[1:150, 1])) == 1, "it grows evenly"
    assert series.scaled[150, 1] < series.scaled[149, 1], "and was reset once"


def test_too_short_a_series_is_refused():
    with pytest.raises(InputError, match="cannot be trained"):
        scale_series(made_up(10), 11)


def test_windows_hold_what_is_known_and_what_comes():
    series = scale_series(made_up(50), 40)
    starts = origins(series, 10, 6, 7)
    assert starts.tolist() == [10, 17, 24, 31, 38]
    past, came, calendar = windows(series, starts, 8, 6)
    assert (past.shape, came.shape, calendar.shape) == ((5, 8, 3), (5, 6), (5, 14, 6))
    assert np.array_equal(past[1], series.scaled[9:17])
    assert np.array_equal(came[1], series.scaled[17:23, 0])
