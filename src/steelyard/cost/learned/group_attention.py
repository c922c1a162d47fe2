"""A network that predicts benchmark scores from groups of hardware characteristics (S39, NCPP).

Every characteristic becomes a token. Tokens attend to each other within their group, and each group is summed up by a
learned query; the groups' vectors then attend to each other, and are summed up again. So a score is a mixture of
groups, each a mixture of its characteristics, and both mixtures can be read off. Published are the idea and a Keras
program that loads a trained model and divides scores by a scale of their benchmark; widths, pooling and training here
are ours, chosen for a sample of a few hundred runs. Tests count in nanoseconds and in megabytes per second, so what is
learned is the logarithm of a score over what is usual for its test.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steelyard.core.errors import InputError
from steelyard.cost.learned.perfcast import (
    CHARACTERISTICS,
    BenchmarkRun,
    Encoding,
    UsualScores,
    fit_encoding,
    usual_scores,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAttentionConfig:
    """Size and training of the network.

    Attributes:
        width: of a token.
        num_heads: that attend side by side.
        num_epochs: passes over all training runs, each one step.
        learning_rate: at the start; it falls to 0 along half a cosine.
        weight_decay: pull of the weights towards 0.
        dropout: share of a summary's elements left out while training.
        seed: of weights and dropout.
    """

    width: int = 32
    num_heads: int = 2
    num_epochs: int = 200
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    seed: int = 0


class Summary(nn.Module):
    """Tokens that attend to each other, then to one learned query."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summary, ``[runs, width]``, and each token's share of it, ``[runs, tokens]``."""
        mixed = self.norm(tokens + self.among(tokens, tokens, tokens, need_weights=False)[0])
        shares = torch.softmax(mixed @ self.query, dim=-1)
        return (shares.unsqueeze(-1) * mixed).sum(dim=1), shares


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What the network says of some runs, and what it looked at.

    Attributes:
        outputs: ``[runs]``, standardised logarithms of scores.
        within: per group, ``[runs, characteristics of the group]``, shares that add up to 1.
        between: ``[runs, groups]``, likewise.
    """

    outputs: Tensor
    within: dict[str, Tensor]
    between: Tensor


class GroupAttention(nn.Module):
    """The network.

    Args:
        num_words: per characteristic, how many words it has; 0 for numeric ones.
        groups: per characteristic, the group it belongs to.
        config: sizes.
    """

    _first_rows: Tensor
    _is_word: Tensor

    def __init__(self, num_words: tuple[int, ...], groups: tuple[str, ...], config: GroupAttentionConfig) -> None:
        super().__init__()
        width = config.width
        first_rows = [0, *itertools.accumulate(count + 1 for count in num_words)]
        self.register_buffer("_first_rows", torch.tensor(first_rows[:-1]))
        self.register_buffer("_is_word", torch.tensor([count > 0 for count in num_words]))
        self.words = nn.Embedding(first_rows[-1], width)
        self.slopes = nn.Parameter(torch.randn(len(num_words), width) / width**0.5)
        self.biases = nn.Parameter(torch.randn(len(num_words), width) / width**0.5)
        self._columns = {name: [i for i, group in enumerate(groups) if group == name] for name in dict.fromkeys(groups)}
        self.within = nn.ModuleList(Summary(width, config.num_heads) for _ in self._columns)
        self.between = Summary(width, config.num_heads)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 1)
        )

    def forward(self, codes: Tensor) -> Attended:
        """Return what the network says of ``codes``, ``[runs, characteristics]`` as :class:`Encoding` makes them."""
        tokens, summaries, within = self._tokens(codes), [], {}
        for summary, (name, columns) in zip(self.within, self._columns.items(), strict=True):
            vector, within[name] = summary(tokens[:, columns])
            summaries.append(vector)
        mixed, between = self.between(torch.stack(summaries, dim=1))
        return Attended(self.head(mixed).squeeze(-1), within, between)

    def _tokens(self, codes: Tensor) -> Tensor:
        """Return ``[runs, characteristics, width]``: a word's vector, or a number times its column's."""
        words = self.words(self._first_rows + torch.where(self._is_word, codes, 0).long())
        numbers = codes.unsqueeze(-1) * self.slopes
        tokens: Tensor = self.biases + torch.where(self._is_word.unsqueeze(-1), words, numbers)
        return tokens


@dataclass(frozen=True, slots=True, eq=False)
class ScorePredictor:
    """A trained network with what it needs to be asked.

    Attributes:
        encoding: of characteristics.
        network: in evaluation mode.
        usual: what the network's answers are relative to.
        scale: standard deviation of the training runs' logarithms around what is usual.
    """

    encoding: Encoding
    network: GroupAttention
    usual: UsualScores
    scale: float

    def predict(self, runs: tuple[BenchmarkRun, ...]) -> NDArray[np.float64]:
        """Return the score expected of each run, whatever was measured, ``[runs]``.

        Raises:
            InputError: if a test is one that no training run had.
        """
        return np.exp(self.usual.logs(runs) + self.scale * self.attend(runs).outputs.double().numpy())

    def attend(self, runs: tuple[BenchmarkRun, ...]) -> Attended:
        """Return the network's answers, in units of ``scale``, and its shares of attention."""
        with torch.no_grad():
            found: Attended = self.network(torch.from_numpy(self.encoding.encode(runs)).float())
        return found


def train_score_predictor(runs: tuple[BenchmarkRun, ...], config: GroupAttentionConfig) -> ScorePredictor:
    """Return a predictor trained on ``runs``; the same runs and seed give the same weights on one machine.

    The global random state is left as it was.

    Raises:
        InputError: if there are no two runs.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} runs are too few to learn from", field="runs", remedy="Give two at least")
    encoding, usual = fit_encoding(runs), usual_scores(runs)
    relative = np.log([run.score for run in runs]) - usual.logs(runs)
    scale = float(relative.std()) or 1.0
    codes = torch.from_numpy(encoding.encode(runs)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        groups = tuple(characteristic.group for characteristic in CHARACTERISTICS)
        network = GroupAttention(tuple(map(len, encoding.words)), groups, config)
        _descend(network, codes, torch.from_numpy(relative / scale).float(), config)
    return ScorePredictor(encoding, network.eval(), usual, scale)


def _descend(network: GroupAttention, codes: Tensor, targets: Tensor, config: GroupAttentionConfig) -> None:
    """Minimise the squared error over all runs at once."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.num_epochs)
    for _ in range(config.num_epochs):
        loss = nn.functional.mse_loss(network(codes).outputs, targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
