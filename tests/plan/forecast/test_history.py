"""Histories: read at equal steps, and every fault named with its line and remedy."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from steelyard.core.errors import InputError, ResourceError, StorageError
from steelyard.plan.forecast import history
from steelyard.plan.forecast.history import HistoryConfig, read_history

START = datetime(2024, 1, 2, tzinfo=UTC).timestamp()  # a Tuesday
LINES = [f"2024-01-02 00:{minute:02}:00,{minute}.5,{minute * 2}" for minute in range(0, 60, 5)]


def written(tmp_path: Path, lines: list[str], header: str = "time,requests,queue") -> Path:
    path = tmp_path / "load.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_rows_at_equal_steps_are_taken_as_they_are(tmp_path):
    found = read_history(written(tmp_path, LINES))
    assert (found.load, found.raw.indicators, found.raw.step_s) == ("requests", ("load", "queue"), 300.0)
    assert (found.start_s, found.end_s) == (START, START + 3600)
    assert found.raw.first_s == 86_400, "seconds from Monday"
    assert found.raw.values.tolist()[1] == [5.5, 10.0]
    assert found.num_filled == 0


def test_columns_are_chosen_the_load_first(tmp_path):
    found = read_history(written(tmp_path, LINES), HistoryConfig(columns=("queue",)))
    assert (found.load, found.raw.indicators) == ("queue", ("load",))
    assert found.raw.values[:3, 0].tolist() == [0, 10, 20]


def test_seconds_offsets_and_gzip_are_read(tmp_path):
    path = tmp_path / "load.csv.gz"
    path.write_bytes(gzip.compress(b"t,load\n1704153600,1\n2024-01-02T02:10:00+02:00,2\n2024-01-02T00:20:00Z,3\n"))
    found = read_history(path)
    assert (found.start_s, found.raw.step_s) == (START, 600.0)


def test_rows_are_averaged_over_longer_steps(tmp_path):
    found = read_history(written(tmp_path, LINES), HistoryConfig(every_s=900))
    assert found.raw.values[:, 0].tolist() == [5.5, 20.5, 35.5, 50.5]
    assert (found.start_s, found.raw.step_s) == (START, 900)
    twice = read_history(written(tmp_path, [*LINES[:2], LINES[1], LINES[3]]), HistoryConfig(every_s=300, fill=1))
    assert twice.raw.values[:, 0].tolist() == [0.5, 5.5, 5.5, 15.5]


def test_a_hole_is_filled_if_it_is_allowed(tmp_path):
    path = written(tmp_path, LINES[:3] + LINES[5:])
    found = read_history(path, HistoryConfig(fill=2))
    assert (found.num_filled, len(found.raw.values)) == (2, 12)
    assert found.raw.values[2:6, 0].tolist() == [10.5, 10.5, 10.5, 25.5]
    with pytest.raises(InputError, match=r"csv:5: time: 2 steps are missing before it.*--fill 2"):
        read_history(path, HistoryConfig(fill=1))


ABSURD = [*LINES[:4], "2024-01-02 00:20:00,1e9,1", *LINES[5:]]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([LINES[0], LINES[2], LINES[1]], r"csv:4: time: it is earlier than the line before\. Sort"),
        ([LINES[0], LINES[1], LINES[1]], r"csv:4: time: it is that of the line before\. Remove one"),
        ([LINES[0], "2024-01-02 00:05:00,-1,0", LINES[2]], r"csv:3: requests: -1 is negative"),
        ([LINES[0], "2024-01-02 00:05:00,many,0"], r"csv:3: requests: 'many' is no finite number"),
        ([LINES[0], "2024-01-02 00:05:00,nan,0"], r"csv:3: requests: 'nan' is no finite number"),
        ([LINES[0], "2024-01-02 00:05:00,,0"], r"csv:3: requests: it is missing\. Fill the gap"),
        ([LINES[0], "yesterday,1,0"], r"csv:3: time: 'yesterday' is no time"),
        (["1704153600000,1,0", *LINES], r"csv:2: time: 1.70415e\+12 s are out of this age.*not milliseconds"),
        ([*LINES[:3], "2024-01-02 00:12:00,1,0"], r"csv:5: time: it is between two steps.*--every"),
        ([*LINES[:3], "2024-01-02 00:10:01,1,0"], r"csv:5: time: its step is that of the line before"),
        (ABSURD, r"csv:6: requests: 1e\+09 is absurd: 90% of the values are below 5"),
        (LINES[:1], "less than two rows"),
        ([*LINES[:2], LINES[2] + ",7"], "more values than columns"),
    ],
)
def test_faults_are_named_with_line_and_remedy(tmp_path, lines, told):
    with pytest.raises(InputError, match=told):
        read_history(written(tmp_path, lines))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (HistoryConfig(columns=("request",)), "Did you mean requests"),
        (HistoryConfig(columns=("queue", "queue")), "named twice"),
        (HistoryConfig(every_s=60), "Give at least 300"),
    ],
)
def test_wrong_options_are_named(tmp_path, config, told):
    with pytest.raises(InputError, match=told):
        read_history(written(tmp_path, LINES), config)


@pytest.mark.parametrize("header", ["time", "time,load,load", ""])
def test_a_header_names_time_and_load(tmp_path, header):
    with pytest.raises(InputError, match="does not name a time"):
        read_history(written(tmp_path, LINES, header))


def test_files_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="cannot be read"):
        read_history(tmp_path / "missing.csv")
    monkeypatch.setattr(history, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pyarrow is not installed"):
        read_history(tmp_path / "load.parquet")


def test_parquet_is_read_like_csv(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    times = [datetime.fromtimestamp(START + 300 * step) for step in range(4)]
    path = tmp_path / "load.parquet"
    parquet.write_table(arrow.table({"time": times, "load": [1.0, 2.0, -1.0, 4.0], "queue": [0, 1, 2, 3]}), path)
    assert read_history(path, HistoryConfig(columns=("queue",))).raw.values[:, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"row 3: load: -1 is negative"):
        read_history(path)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match="no Parquet"):
        read_history(path)
