"""Forecasts from several indicators by hierarchical attention, with a normalising flow for their distribution (S27).

As in HARMONY's published program, each indicator is one token that holds its whole history, attention cascades over
levels of indicators, and a Gaussian projection is bent by a flow. Different, because that program trains on squared
errors of a mean: here the flow's density of what came is what is maximised, so that its futures are a distribution.
The flow is a neural spline (Durkan et al., 2019; zuko), conditioned on the token of the target, over all steps of the
horizon jointly. The program's levels are read from a file of its data; ours go from host to container to target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import zuko
from torch import Tensor, nn

from steelyard.core.errors import InputError
from steelyard.plan.forecast.series import CALENDAR_WIDTH, TARGET, Floats, Ints, Series, windows
from steelyard.plan.forecast.training import Batch, TrainingConfig, descend, training_for, training_windows
from steelyard.plan.forecast.types import FitRequest, Forecaster, Task

CALENDAR = "calendar"
_LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyConfig:
    """Size of the network.

    Attributes:
        width: of a token.
        num_heads: that attend side by side.
        num_layers: of attention.
        context_width: of what the flow is conditioned on.
        num_transforms: splines one after another; 0 leaves the Gaussian as it is.
        num_bins: of a spline.
        dropout: share of elements left out while training.
    """

    width: int = 32
    num_heads: int = 2
    num_layers: int = 2
    context_width: int = 16
    num_transforms: int = 2
    num_bins: int = 6
    dropout: float = 0.1


def level_of(indicator: str) -> int:
    """Return an indicator's level: 0 for the calendar and the host, 1 for the container, 2 for the target."""
    if indicator == TARGET:
        return 2
    return 1 if indicator.startswith(("container_", "blkio.")) else 0


def may_attend(levels: Sequence[int]) -> Tensor:
    """Return ``[tokens, tokens]``: whether the token of a row may look at that of a column: one not above itself."""
    level = torch.tensor(levels)
    return level.unsqueeze(0) <= level.unsqueeze(1)


class HierarchicalLayer(nn.Module):
    """Attention among tokens along the hierarchy, then a network per token."""

    _blocked: Tensor

    def __init__(self, levels: Sequence[int], config: HarmonyConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.width, config.num_heads, dropout=config.dropout, batch_first=True)
        self.register_buffer("_blocked", ~may_attend(levels))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.network = nn.Sequential(
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width),
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens, ``[windows, tokens, width]``, and the shares of attention,
        ``[windows, heads, tokens, tokens]``, whose rows add up to 1.
        """  # fmt: skip
        normed = self.norms[0](tokens)
        mixed, shares = self.attention(
            normed, normed, normed, attn_mask=self._blocked, need_weights=True, average_attn_weights=False
        )
        tokens = tokens + mixed
        return tokens + self.network(self.norms[1](tokens)), shares


class HarmonyNetwork(nn.Module):
    """From the past of all indicators to a distribution over the target's next steps.

    Args:
        indicators: names of the columns, the target first.
        task: context and horizon.
        config: sizes.
    """

    def __init__(self, indicators: Sequence[str], task: Task, config: HarmonyConfig) -> None:
        super().__init__()
        levels = [*map(level_of, indicators), level_of(CALENDAR)]
        self.history = nn.Linear(task.context, config.width)
        self.calendar = nn.Linear(CALENDAR_WIDTH, config.width)
        self.names = nn.Parameter(torch.randn(len(levels), config.width) / config.width**0.5)
        self.layers = nn.ModuleList(HierarchicalLayer(levels, config) for _ in range(config.num_layers))
        self.gaussian = nn.Linear(config.width, 2 * task.horizon)
        self.condition = nn.Linear(config.width, config.context_width)
        self.flow = (
            zuko.flows.NSF(
                features=task.horizon,
                context=config.context_width,
                bins=config.num_bins,
                transforms=config.num_transforms,
                hidden_features=(config.width, config.width),
            )
            if config.num_transforms
            else None
        )

    def forward(self, past: Tensor, calendar: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return location and scale, ``[windows, horizon]``, the flow's condition, and each layer's attention.

        Args:
            past: ``[windows, context, indicators]``.
            calendar: ``[windows, context + horizon, 6]``; that of the first step to come is looked at.
        """
        now = self.calendar(calendar[:, past.shape[1]]).unsqueeze(1)
        tokens = torch.cat([self.history(past.transpose(1, 2)), now], dim=1) + self.names
        shares = []
        for layer in self.layers:
            tokens, attended = layer(tokens)
            shares.append(attended)
        change, log_scale = self.gaussian(tokens[:, 0]).chunk(2, dim=-1)
        location = past[:, -1:, 0] + change
        return location, nn.functional.softplus(log_scale) + _LEAST_SCALE, self.condition(tokens[:, 0]), shares

    def log_density(self, past: Tensor, came: Tensor, calendar: Tensor) -> Tensor:
        """Return the logarithm of the density of ``came``, ``[windows, horizon]``, for each window."""
        location, scale, condition, _ = self(past, calendar)
        standard = (came - location) / scale
        base: Tensor = (
            (-0.5 * (standard**2 + math.log(2 * math.pi))).sum(dim=-1)
            if self.flow is None
            else self.flow(condition).log_prob(standard)
        )
        density: Tensor = base - scale.log().sum(dim=-1)
        return density

    def draw(self, past: Tensor, calendar: Tensor, num_futures: int) -> Tensor:
        """Return futures, ``[windows, num_futures, horizon]``, by torch's global random state."""
        location, scale, condition, _ = self(past, calendar)
        if self.flow is None:
            standard = torch.randn(num_futures, *location.shape)
        else:
            standard = self.flow(condition).sample((num_futures,))
        futures: Tensor = location + scale * standard
        return futures.transpose(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class HarmonyForecaster:
    """A trained network; see :class:`~steelyard.plan.forecast.types.Forecaster`.

    Attributes:
        columns: of a series that it looks at, the target first.
    """

    network: HarmonyNetwork
    columns: tuple[int, ...]
    task: Task

    def draw(self, series: Series, starts: Ints) -> Floats:
        """See :class:`~steelyard.plan.forecast.types.Forecaster`."""
        past, _, calendar = windows(series, starts, self.task.context, 0)
        now = series.calendar[starts][:, None]
        known = torch.from_numpy(calendar).float(), torch.from_numpy(now).float()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.task.seed)
            drawn: Tensor = self.network.draw(
                torch.from_numpy(past[:, :, self.columns]).float(), torch.cat(known, dim=1), self.task.num_futures
            )
        futures: Floats = drawn.double().numpy()
        return futures


def train_harmony(
    many: Sequence[Series],
    indicators: Sequence[str],
    task: Task,
    config: HarmonyConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    only: Sequence[str] | None = None,
) -> HarmonyForecaster:
    """Return one network trained on the training parts of all series together.

    Args:
        many: with the same indicators.
        indicators: names of their columns, the target first.
        task: what is asked.
        config: sizes; ``None`` for the usual.
        training: how; ``None`` for the usual.
        only: the indicators to look at; ``None`` for all.

    Raises:
        InputError: if the series are too short, or an indicator is not known.
    """
    chosen = tuple(only or indicators)
    for name in chosen:
        if name not in indicators:
            raise InputError("is no indicator of the series", field=name, remedy=f"Use {', '.join(indicators)}")
    columns = tuple(indicators.index(name) for name in chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = HarmonyNetwork(chosen, task, config or HarmonyConfig())

        def loss(batch: Batch) -> Tensor:
            past, came, calendar = batch
            return -network.log_density(past[:, :, columns], came, calendar).mean()

        how = training or TrainingConfig()
        descend(network, loss, training_windows(many, task, how.stride), how, task.seed)
    return HarmonyForecaster(network, columns, task)


def make_harmony(asked: FitRequest) -> Forecaster:
    """Return a network trained on one series."""
    training = training_for(asked.series, asked.task)
    return train_harmony([asked.series], asked.indicators, asked.task, training=training)
