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
from steelyard.reproduce.s27_simulated import Service, scaled, service_of

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
    assert sum(setup.startswith("simulated, ") for setup in setups) == 3
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


def made_up(value: np.ndarray, first_s: float = 0.0) -> RawSeries:
    return RawSeries(name="a", indicators=("load",), step_s=600.0, first_s=first_s, values=value[:, None])


def test_containers_measured_together_make_the_demand():
    service = service_of([made_up(load(0)), made_up(load(1)), made_up(load(2), 600.0)], 10)
    together = load(0) + load(1)
    assert service.past.mean() == pytest.approx(4)
    assert service.coming == pytest.approx(together[800:810] * 4 / together[:800].mean())


def test_requests_come_at_the_rate_that_keeps_so_many_replicas_busy():
    service = Service(np.ones(300), np.array([2.0, 0.0, 8.0] * 40), 1.5, 0.0, 600.0)
    trace = service.trace(0)
    per_step = np.bincount([int(one.arrival_s // 30) for one in trace.requests], minlength=120).reshape(40, 3)
    assert per_step.mean(axis=0) == pytest.approx([2 * 4 / 1.5 * 30, 0, 8 * 4 / 1.5 * 30], rel=0.05)
    assert service.trace(0) == trace
    seen = service.seen(0)
    assert (seen.step_s, len(seen.values)) == (200.0, 900)
    assert seen.values.mean() == pytest.approx(1, rel=0.1)


def test_who_knows_what_comes_serves_more_within_the_objective():
    coming = np.repeat([1.0, 6.0, 1.0], 4)
    service = Service(np.ones(300), coming, 1.46, 0.0, 600.0)

    class Knowing:
        def futures(self, demands, num_moments):
            ahead = 1.4 * np.repeat(coming, 3)[len(demands) : len(demands) + num_moments]
            return (tuple(ahead.tolist()) or (1.0,),)

    trace = service.trace(0)
    knowing = scaled(service, trace, "expected_cost", Knowing(), 0)
    following = scaled(service, trace, "reactive", None, 0)
    assert knowing.num_done == following.num_done == len(trace.requests)
    assert knowing.slo_share > following.slo_share + 0.3
    assert knowing == scaled(service, trace, "expected_cost", Knowing(), 0)


def test_it_needs_its_data():
    with pytest.raises(InputError, match="cannot be shipped"):
        reproduce(options(None))
