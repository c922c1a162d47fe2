"""Forecasts without learning from others: the last value, the day before, exponential smoothing, ARIMA.

The first two spread their futures by the errors they made in training. The others are statsmodels' state-space models,
fitted to each series' training part once and then run on over what came, without fitting again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.tools.sm_exceptions import ConvergenceWarning, ValueWarning
from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
from statsmodels.tsa.statespace.sarimax import SARIMAX

from steelyard.plan.forecast.series import Floats, Ints, Series, origins
from steelyard.plan.forecast.types import Task

ARIMA_ORDER = (2, 1, 2)
_MAX_FITTING_STEPS = 50
_LOOK_BACK = 300  # steps that a state-space model is run over before an origin; older ones no longer count


@dataclass(frozen=True, slots=True)
class RepeatForecaster:
    """What was seen ``season`` steps before comes again; 1 repeats the last value.

    Its futures are that plus errors it made together over a horizon in training, drawn as wholes.
    """

    task: Task
    season: int = 1

    def draw(self, series: Series, starts: Ints) -> Floats:
        """See :class:`~steelyard.plan.forecast.types.Forecaster`."""
        task = self.task
        before = origins(series, max(self.season, task.horizon), task.horizon, 1)
        before = before[before + task.horizon <= series.num_train]
        came = series.scaled[before[:, None] + np.arange(task.horizon), 0]
        errors = came - self._repeated(series, before)
        chosen = np.random.default_rng(task.seed).integers(len(errors), size=(len(starts), task.num_futures))
        futures: Floats = self._repeated(series, starts)[:, None] + errors[chosen]
        return futures

    def _repeated(self, series: Series, starts: Ints) -> Floats:
        ahead = np.arange(self.task.horizon)
        repeated: Floats = series.scaled[starts[:, None] - self.season + ahead % self.season, 0]
        return repeated


@dataclass(frozen=True, slots=True)
class StateSpaceForecaster:
    """A model of statsmodels per series; its futures are Gaussian step by step.

    Attributes:
        kind: ``ets`` for exponential smoothing with a damped trend, ``arima`` for ARIMA(2, 1, 2).
    """

    task: Task
    kind: str

    def draw(self, series: Series, starts: Ints) -> Floats:
        """See :class:`~steelyard.plan.forecast.types.Forecaster`."""
        target = series.scaled[:, 0]
        rng = np.random.default_rng(self.task.seed)
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stops early is judged by its forecasts
            warnings.simplefilter("ignore", ValueWarning)
            warnings.simplefilter("ignore", UserWarning)  # starting values that it replaces itself
            params = _model(self.kind, target[: series.num_train]).fit(disp=0, maxiter=_MAX_FITTING_STEPS).params
            drawn = [self._futures(target[max(0, start - _LOOK_BACK) : start], params, rng) for start in starts]
        return np.array(drawn)

    def _futures(self, seen: Floats, params: Floats, rng: np.random.Generator) -> Floats:
        ahead = _model(self.kind, seen).smooth(params).get_forecast(self.task.horizon)
        normal = rng.standard_normal((self.task.num_futures, self.task.horizon))
        futures: Floats = ahead.predicted_mean + ahead.se_mean * normal
        return futures


def _model(kind: str, target: Floats) -> Any:
    if kind == "ets":
        return ExponentialSmoothing(target, trend=True, damped_trend=True)
    return SARIMAX(target, order=ARIMA_ORDER)
