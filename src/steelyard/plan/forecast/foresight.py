"""Forecasters as an autoscaler asks for them: :class:`TrainedForesight` (S27).

An autoscaler knows demands in replicas, one per decision. A forecaster trained on earlier demands goes on from them as
new ones come; it looks at the load alone, since nobody reports other indicators to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from steelyard.core.errors import ParamsError
from steelyard.plan.forecast.named import make_forecaster
from steelyard.plan.forecast.series import RawSeries, scale_series
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task
from steelyard.policies.scale.types import Futures


@final
@dataclass(frozen=True, slots=True, eq=False)
class TrainedForesight:
    """A trained forecaster; see :class:`~steelyard.policies.scale.types.DemandForecaster`.

    Attributes:
        forecaster: trained on ``trained``.
        trained: demands in replicas, at the steps at which decisions are made; the load alone.
        task: context and horizon.
    """

    forecaster: Forecaster
    trained: RawSeries
    task: Task

    def futures(self, demands: Sequence[float], num_moments: int) -> Futures:
        """See :class:`~steelyard.policies.scale.types.DemandForecaster`.

        Raises:
            ParamsError: if more moments are asked for than the forecaster was trained to see.
        """
        if num_moments > self.task.horizon:
            problem = f"{num_moments} moments are more than the {self.task.horizon} that were trained"
            raise ParamsError(problem, field="horizon", remedy="Train for a longer horizon")
        values = np.concatenate([self.trained.values, np.array(demands, dtype=float).reshape(-1, 1)])
        num_trained = len(self.trained.values)
        series = scale_series(replace(self.trained, values=values), num_trained, self.task.horizon)
        drawn = series.to_load(self.forecaster.draw(series, np.array([len(values)])))[0, :, :num_moments]
        return tuple(map(tuple, drawn.tolist()))


def train_foresight(name: str, demands: RawSeries, task: Task, season: int) -> TrainedForesight:
    """Return a forecaster trained on past demands.

    Args:
        name: of :data:`~steelyard.plan.forecast.named.FORECASTERS`.
        demands: in replicas, the load alone.
        task: context and horizon.
        season: steps after which things repeat.

    Raises:
        InputError: if there is no such forecaster, or the series is too short for it.
    """
    series = scale_series(demands, len(demands.values), task.horizon)
    asked = FitRequest(series=series, indicators=demands.indicators, task=task, season=season)
    return TrainedForesight(make_forecaster(name, asked), demands, task)
