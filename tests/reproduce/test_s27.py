"""S27 on made-up containers in HARMONY's form: the table stands, and the forecaster that sees ahead scales best."""

from __future__ import annotations

import gzip
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("statsmodels")
pytest.importorskip("zuko")

from steelyard.core.errors import InputError
from steelyard.plan.forecast.series import RawSeries
from steelyard.plan.forecast.types import Task
from steelyard.policies.scale import make_scale_policy
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.s27 import HARMONY, hold_out, replayed, reproduce

NUM_STEPS = 1000


def load(seed: int) -> np.ndarray:
    rng, steps = np.random.default_rng(seed), np.arange(NUM_STEPS)
    return 5 + 2 * np.sin(2 * np.pi * steps / 144) + np.repeat(rng.integers(0, 4, NUM_STEPS // 6 + 1), 6)[:NUM_STEPS]


def write_containers(directory: Path) -> Path:
    start = datetime(2024, 1, 1)
    for number in (1, 2):
        rows = [
            f"{start + timedelta(minutes=10 * step)},{value:.4f},{value * 3:.4f}"
            for step, value in enumerate(load(number))
        ]
        text = "\n".join(["date,load,container_cpu", *rows])
        (directory / f"container{number}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return directory


def options(directory: Path | None) -> ReproduceOptions:
    return ReproduceOptions(model="none", quick=True, data_dir=directory)


def test_the_table_has_every_forecaster_and_every_way_to_scale(tmp_path):
    found = reproduce(options(write_containers(tmp_path)))
    setups = [row.setup for row in found.rows]
    forecasts = [setup for setup in setups if setup.startswith("forecast, ")]
    assert len(forecasts) == 8
    assert f"forecast, {HARMONY}" in forecasts
    assert sum(setup.startswith("scaling, ") for setup in setups) == 4 + 8
    assert found.rows[0].ratio == pytest.approx(1.0), "the last value is what all are compared with"
    assert all(row.ratio is None or row.ratio > 0 for row in found.rows)


def test_knowing_the_future_costs_less_than_following_it():
    raw = RawSeries(name="a", indicators=("load",), step_s=600.0, first_s=0.0, values=load(0)[:, None])
    held = hold_out(raw, Task())
    known = [held.came[:, None, :]]
    (ahead,) = replayed([held], lambda one: make_scale_policy("expected_cost", prior_weight=None), known)
    (behind,) = replayed([held], lambda one: make_scale_policy("reactive"), None)
    assert ahead.num_steps == behind.num_steps == held.came.size
    assert ahead.num_short_steps == 0
    assert ahead.cost(1.0, 10.0) < 0.8 * behind.cost(1.0, 10.0)


def test_it_needs_its_data():
    with pytest.raises(InputError, match="cannot be shipped"):
        reproduce(options(None))
