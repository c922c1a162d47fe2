"""Forecasts that repeat what was: the last value, or that of the same hour the day before.

They spread their futures by the errors that they made in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.core.errors import InputError
from steelyard.plan.forecast.series import Floats, Ints, Series, origins
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task


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


def make_last(asked: FitRequest) -> Forecaster:
    """Return the forecast that repeats the last value."""
    return RepeatForecaster(asked.task)


def make_seasonal(asked: FitRequest) -> Forecaster:
    """Return the forecast that repeats the season before.

    Raises:
        InputError: if the training part does not hold a season and one more horizon, or the horizon is the longer.
    """
    needed = asked.season + asked.task.horizon
    if asked.series.num_train < needed:
        problem = f"a season of {asked.season} steps needs {needed} to learn from, there are {asked.series.num_train}"
        raise InputError(problem, field="season", remedy="Give a longer history, or a shorter season")
    if asked.season < asked.task.horizon:
        problem = f"{asked.season} steps are less than the horizon of {asked.task.horizon}"
        raise InputError(problem, field="season", remedy="Give a longer season, or a shorter horizon")
    return RepeatForecaster(asked.task, asked.season)
