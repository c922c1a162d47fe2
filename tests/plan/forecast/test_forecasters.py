"""Forecasters: the seam they share, what they know, and that attention to other indicators pays where it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forecast_series import INDICATORS, made_up

from steelyard.core.errors import InputError
from steelyard.plan.forecast.baselines import StateSpaceForecaster
from steelyard.plan.forecast.deep_ar import train_recurrent
from steelyard.plan.forecast.harmony import (
    HarmonyConfig,
    HarmonyNetwork,
    level_of,
    may_attend,
    train_harmony,
)
from steelyard.plan.forecast.repeat import RepeatForecaster
from steelyard.plan.forecast.scores import crps
from steelyard.plan.forecast.series import Series, origins, scale_series
from steelyard.plan.forecast.training import TrainingConfig
from steelyard.plan.forecast.types import Forecaster, Task

TASK = Task(context=24, horizon=6, num_futures=50)
SMALL = HarmonyConfig(width=16, context_width=8, num_bins=4, dropout=0.0)
LITTLE = TrainingConfig(num_epochs=25, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def series() -> Series:
    return scale_series(made_up(), 960)


@pytest.fixture(scope="module")
def trained(series: Series) -> dict[str, Forecaster]:
    return {
        "repeat": RepeatForecaster(TASK),
        "season": RepeatForecaster(TASK, 144),
        "ets": StateSpaceForecaster(TASK, "ets"),
        "arima": StateSpaceForecaster(TASK, "arima"),
        "recurrent": train_recurrent([series], TASK, LITTLE, width=8),
        "harmony": train_harmony([series], INDICATORS, TASK, SMALL, LITTLE),
        "alone": train_harmony([series], INDICATORS, TASK, SMALL, LITTLE, only=["load"]),
    }


NAMES = ["repeat", "season", "ets", "arima", "recurrent", "harmony", "alone"]


@pytest.mark.parametrize("name", NAMES)
def test_futures_have_their_shape_and_do_not_change(name, trained, series):
    starts = origins(series, series.num_train, TASK.horizon, 40)
    drawn = trained[name].draw(series, starts)
    assert drawn.shape == (len(starts), TASK.num_futures, TASK.horizon)
    assert np.isfinite(drawn).all()
    assert np.array_equal(drawn, trained[name].draw(series, starts))


@pytest.mark.parametrize("name", NAMES)
def test_nobody_sees_what_is_to_come(name, trained, series):
    start = np.array([1000])
    changed = Series(**{field: getattr(series, field) for field in series.__slots__ if field != "__weakref__"})
    scaled = changed.scaled.copy()
    scaled[1000:] = 9.0
    object.__setattr__(changed, "scaled", scaled)
    assert np.array_equal(trained[name].draw(series, start), trained[name].draw(changed, start))


def test_repeating_begins_at_the_last_value(series):
    start = np.array([1000])
    drawn = RepeatForecaster(TASK).draw(series, start)
    errors = drawn[0] - series.scaled[999, 0]
    assert np.abs(errors.mean()) < 0.5
    season = RepeatForecaster(TASK, 144).draw(series, start)[0]
    assert np.abs((season - series.scaled[1000 - 144 : 1006 - 144, 0]).mean()) < 0.5


def test_an_indicator_that_announces_the_load_is_looked_at(trained, series):
    starts = origins(series, series.num_train, TASK.horizon, TASK.horizon)
    came = series.scaled[starts[:, None] + np.arange(TASK.horizon), 0]
    error = {name: crps(trained[name].draw(series, starts), came).mean() for name in NAMES}
    assert error["harmony"] < 0.8 * min(value for name, value in error.items() if name != "harmony")


def test_the_hierarchy_goes_from_host_to_container_to_target():
    levels = [level_of(name) for name in ("load", "container_cpu", "blkio.read", "mem_used", "calendar")]
    assert levels == [2, 1, 1, 0, 0]
    allowed = may_attend(levels)
    assert allowed[0].all()
    assert not allowed[3, :3].any()
    assert allowed[1].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("num_transforms", [0, 2])
def test_the_distribution_is_one(num_transforms):
    torch.manual_seed(0)
    task = Task(context=4, horizon=1)
    config = HarmonyConfig(width=8, context_width=4, num_transforms=num_transforms, num_bins=4, dropout=0.0)
    network = HarmonyNetwork(INDICATORS, task, config).eval()
    grid = torch.linspace(-30, 30, 6001).unsqueeze(1)
    past, calendar = torch.randn(1, 4, 3).expand(len(grid), -1, -1), torch.randn(1, 5, 6).expand(len(grid), -1, -1)
    with torch.no_grad():
        density = network.log_density(past, grid, calendar).exp()
    assert float(torch.trapezoid(density.flatten(), grid.flatten())) == pytest.approx(1.0, abs=0.02)


def test_unknown_indicators_and_short_series_are_refused(series):
    with pytest.raises(InputError, match="no indicator"):
        train_harmony([series], INDICATORS, TASK, SMALL, LITTLE, only=["nothing"])
    short = scale_series(made_up(60), 40)
    with pytest.raises(InputError, match="too short"):
        train_recurrent([short], TASK, LITTLE)
