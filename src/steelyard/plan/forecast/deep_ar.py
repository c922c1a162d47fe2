"""A recurrent network that forecasts one step after another, in the manner of DeepAR (Salinas et al., 2020).

It sees the target alone and the calendar, learns a Student-t distribution of the next step at every step of a window,
and draws futures by feeding back what it drew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import StudentT

from steelyard.plan.forecast.series import CALENDAR_WIDTH, Floats, Ints, Series, windows
from steelyard.plan.forecast.training import Batch, TrainingConfig, descend, training_for, training_windows
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task

_LEAST_SCALE = 1e-3
_LEAST_FREEDOM = 2.1  # a variance exists


class RecurrentNetwork(nn.Module):
    """A gated recurrent unit over (value before, calendar) whose state gives the next value's distribution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit = nn.GRU(1 + CALENDAR_WIDTH, width, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, values: Tensor, calendar: Tensor, state: Tensor | None = None) -> tuple[StudentT, Tensor]:
        """Return the distribution of each step's value, ``[windows, steps]``, and the state after the last.

        Args:
            values: ``[windows, steps]``, of the step before each.
            calendar: ``[windows, steps, 6]``, of each step.
            state: after the step before the first; ``None`` at a window's beginning.
        """
        out, after = self.unit(torch.cat([values.unsqueeze(-1), calendar], dim=-1), state)
        location, scale, freedom = self.head(out).unbind(dim=-1)
        softplus = nn.functional.softplus
        next_value = StudentT(_LEAST_FREEDOM + softplus(freedom), values + location, _LEAST_SCALE + softplus(scale))
        return next_value, after

    def draw(self, past: Tensor, calendar: Tensor, horizon: int) -> Tensor:
        """Return one future per window, ``[windows, horizon]``, by torch's global random state.

        Args:
            past: ``[windows, context]``.
            calendar: ``[windows, context + horizon, 6]``.
            horizon: steps.
        """
        context = past.shape[1]
        _, state = self(past[:, :-1], calendar[:, 1:context])
        value, drawn = past[:, -1:], []
        for step in range(context, context + horizon):
            next_value, state = self(value, calendar[:, step : step + 1], state)
            value = next_value.sample()
            drawn.append(value)
        return torch.cat(drawn, dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentForecaster:
    """A trained network; see :class:`~steelyard.plan.forecast.types.Forecaster`."""

    network: RecurrentNetwork
    task: Task

    def draw(self, series: Series, starts: Ints) -> Floats:
        """See :class:`~steelyard.plan.forecast.types.Forecaster`."""
        task = self.task
        places = starts[:, None] + np.arange(-task.context, task.horizon)
        past = torch.from_numpy(windows(series, starts, task.context, 0)[0][:, :, 0]).float()
        calendar = torch.from_numpy(series.calendar[np.minimum(places, len(series.calendar) - 1)]).float()
        many = [one.repeat_interleave(task.num_futures, dim=0) for one in (past, calendar)]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            drawn = self.network.draw(many[0], many[1], task.horizon)
        return drawn.double().numpy().reshape(len(starts), task.num_futures, task.horizon)


def train_recurrent(
    many: Sequence[Series], task: Task, training: TrainingConfig | None = None, *, width: int = 32
) -> RecurrentForecaster:
    """Return one network trained on the training parts of all series together.

    Raises:
        InputError: if the series are too short.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = RecurrentNetwork(width)

        def loss(batch: Batch) -> Tensor:
            past, came, calendar = batch
            values = torch.cat([past[:, :, 0], came], dim=1)
            next_value, _ = network(values[:, :-1], calendar[:, 1:])
            surprise: Tensor = -next_value.log_prob(values[:, 1:]).mean()
            return surprise

        how = training or TrainingConfig()
        descend(network, loss, training_windows(many, task, how.stride), how, task.seed)
    return RecurrentForecaster(network, task)


def make_recurrent(asked: FitRequest) -> Forecaster:
    """Return a network trained on one series; it sees the target alone."""
    return train_recurrent([asked.series], asked.task, training_for(asked.series, asked.task))
