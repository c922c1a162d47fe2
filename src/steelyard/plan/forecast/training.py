"""Training a network to give what came a high density: one loop for all networks that forecast."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.core.errors import InputError
from steelyard.plan.forecast.series import Series, origins, windows
from steelyard.plan.forecast.types import Task

Batch = tuple[Tensor, Tensor, Tensor]
"""The past, what came, and the calendar, as :func:`steelyard.plan.forecast.series.windows` gives them."""
_ENOUGH_STEPS, _SMALL_BATCH, _MOST_EPOCHS = 100, 64, 30
_CHECKED_SHARE = 8  # one step in so many, the last of training, decides which epoch was best


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a network is trained.

    Attributes:
        num_epochs: passes over the windows.
        batch_size: windows per step.
        stride: steps between the windows of a series; more than 1 would miss some minutes of the hour.
        learning_rate: at the start; it falls to 0 along half a cosine.
        weight_decay: pull of the weights towards 0.
        max_norm: of the gradient.
    """

    num_epochs: int = 6
    batch_size: int = 256
    stride: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    max_norm: float = 1.0


def training_for(series: Series, task: Task) -> TrainingConfig:
    """Return how to train on one series alone: smaller batches and more passes where there are few windows."""
    usual = TrainingConfig()
    num_windows = max(1, series.num_train - task.context - task.horizon)
    if num_windows >= _ENOUGH_STEPS // usual.num_epochs * usual.batch_size:
        return usual
    num_epochs = _ENOUGH_STEPS // max(1, num_windows // _SMALL_BATCH)
    return replace(usual, batch_size=_SMALL_BATCH, num_epochs=min(_MOST_EPOCHS, max(usual.num_epochs, num_epochs)))


def training_windows(many: Sequence[Series], task: Task, stride: int) -> tuple[Batch, Batch]:
    """Return windows of the training parts of all series: those to learn from, and those after them to check with.

    Raises:
        InputError: if the training parts are too short.
    """
    learn, check = [], []
    for series in many:
        last = series.num_train - series.num_train // _CHECKED_SHARE
        starts = origins(series, task.context, task.horizon, stride)
        learn.append(windows(series, starts[starts + task.horizon <= last], task.context, task.horizon))
        later = starts[(starts >= last) & (starts + task.horizon <= series.num_train)]
        check.append(windows(series, later, task.context, task.horizon))
    batches = _joined(learn), _joined(check)
    if not (len(batches[0][0]) and len(batches[1][0])):
        problem = "too short for a window to learn from and one to check with"
        raise InputError(problem, field="series", remedy="Give longer series or a shorter context")
    return batches


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    past, came, calendar = (torch.from_numpy(np.concatenate(arrays)).float() for arrays in zip(*parts, strict=True))
    return past, came, calendar


def descend(
    network: nn.Module, loss: Callable[[Batch], Tensor], data: tuple[Batch, Batch], config: TrainingConfig, seed: int
) -> None:
    """Train ``network`` and leave it with the weights of the epoch that did best on the second part of ``data``.

    Args:
        network: changed.
        loss: mean over a batch, of ``network``.
        data: from :func:`training_windows`.
        config: how.
        seed: of the order of windows.
    """
    learn, check = data
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    num_steps = config.num_epochs * -(-len(learn[0]) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    best = (float("inf"), copy.deepcopy(network.state_dict()))
    for _ in range(config.num_epochs):
        network.train()
        for rows in torch.split(torch.randperm(len(learn[0]), generator=shuffle), config.batch_size):
            value = loss((learn[0][rows], learn[1][rows], learn[2][rows]))
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.max_norm)
            optimiser.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            checked = float(loss(check))
        if checked < best[0]:
            best = (checked, copy.deepcopy(network.state_dict()))
    network.load_state_dict(best[1])
    network.eval()
