"""Forecasts without learning from others: exponential smoothing and ARIMA.

They are statsmodels' state-space models, fitted to each series' training part once and then run on over what came,
without fitting again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.tools.sm_exceptions import ConvergenceWarning, ValueWarning
from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
from statsmodels.tsa.statespace.sarimax import SARIMAX

from steelyard.plan.forecast.series import Floats, Ints, Series
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task

ARIMA_ORDER = (2, 1, 2)
_MAX_FITTING_STEPS = 50
_LOOK_BACK = 300  # steps that a state-space model is run over before an origin; older ones no longer count


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


def make_smoothing(asked: FitRequest) -> Forecaster:
    """Return exponential smoothing for a series."""
    return StateSpaceForecaster(asked.task, "ets")


def make_arima(asked: FitRequest) -> Forecaster:
    """Return ARIMA for a series."""
    return StateSpaceForecaster(asked.task, "arima")
