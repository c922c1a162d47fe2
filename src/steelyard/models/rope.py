"""Rotary position embedding: frequencies, tables of cos and sin, and the rotation itself (Su et al., arXiv:2104.09864).

Halves of a head are paired (element ``i`` with ``i + dim/2``), as in Hugging Face's checkpoints. Frequencies and angles
are float32, computed in the same order as there, because at long contexts their rounding is visible in the logits.

Dynamic NTK scaling stretches the base with the length of the sequence. Here the token at position ``p`` is rotated with
the base for a sequence of ``p + 1`` tokens, which is what generating token by token does: the result depends neither on
how a prompt was cut into chunks nor on what came later. (A prompt longer than the original context that is computed
in one piece elsewhere has all its tokens rotated for its full length, and differs.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steelyard.core.units import round_up
from steelyard.models.config import (
    DynamicScaling,
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    YarnScaling,
)

# Positions are computed in blocks of one size, so that an entry's bits do not depend on the table's length.
TABLE_BLOCK = 256

Rotation = tuple[Tensor, Tensor]
"""cos and signed sin, each ``[tokens, 1, dim]``."""


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return ``x`` ``[tokens, heads, head_dim]`` with its first ``dim`` elements rotated."""
    cos, sin = rotation
    dim = cos.shape[-1]
    if dim == x.shape[-1]:
        return x * cos + x.roll(dim // 2, -1) * sin
    turned, kept = x[..., :dim], x[..., dim:]
    return torch.cat((turned * cos + turned.roll(dim // 2, -1) * sin, kept), dim=-1)


class RotaryTable:
    """cos and sin by position.

    On the CPU a table, made when first asked for and at least doubling each time: there the bits of a vectorised
    cosine depend on where in the array it stands. On an accelerator they do not, and asking for the largest position
    would stall it, so the step's few angles are computed on the spot.

    Args:
        config: the embedding.
    """

    def __init__(self, config: RopeConfig) -> None:
        self.config = config
        self._frequencies: Tensor | None = None
        self._table = torch.empty(2, 0, config.dim, device="cpu")  # cos and signed sin by position, float32

    def lookup(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` ``[tokens]`` int64 in ``dtype``."""
        if positions.device.type == "cpu":
            needed = int(positions.max()) + 1 if len(positions) else 0
            cos, sin = self.covering(needed)[:, positions, None].to(dtype)
        else:
            cos, sin = self._computed(positions)[:, :, None].to(dtype)
        return cos, sin

    def covering(self, num_positions: int) -> Tensor:
        """Return cos and signed sin by position, ``[2, num_positions or more, dim]`` float32, on the CPU."""
        if num_positions > self._table.shape[1]:
            self._grow(num_positions)
        return self._table

    @torch.inference_mode(False)  # a table made while serving must not be unusable in training
    def _grow(self, num_positions: int) -> None:
        num_known = self._table.shape[1]
        stop = round_up(max(num_positions, 2 * num_known), TABLE_BLOCK)
        blocks = (torch.arange(start, start + TABLE_BLOCK) for start in range(num_known, stop, TABLE_BLOCK))
        self._table = torch.cat((self._table, *map(self._computed, blocks)), dim=1)

    def _computed(self, positions: Tensor) -> Tensor:
        if self._frequencies is None or self._frequencies.device != positions.device:
            with torch.inference_mode(False):
                self._frequencies = inverse_frequencies(self.config, positions.device)
        return rotation_at(self.config, self._frequencies, positions)


def rotation_at(config: RopeConfig, frequencies: Tensor, positions: Tensor) -> Tensor:
    """Return cos and signed sin, ``[2, tokens, dim]`` float32, of ``positions`` ``[tokens]``.

    ``frequencies`` are :func:`inverse_frequencies`; dynamic scaling has its own at each position.
    """
    column = positions.float()[:, None]
    if isinstance(config.scaling, DynamicScaling):
        frequencies = _dynamic(config, config.scaling, column)
    angles, scale = column * frequencies, attention_factor(config)
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))


def attention_factor(config: RopeConfig) -> float:
    """Return the factor on cos and sin, and so its square on the scores."""
    return config.scaling.attention_factor if isinstance(config.scaling, YarnScaling | FactorScaling) else 1.0


def inverse_frequencies(config: RopeConfig, device: torch.device | None = None) -> Tensor:
    """Return radians per position, ``[dim / 2]`` float32; of dynamic scaling, those within the original context."""
    plain = 1.0 / _powers(config.theta, config.dim, device)
    match config.scaling:
        case LinearScaling(factor=factor):
            return plain / factor
        case Llama3Scaling():
            return _llama3(config.scaling, plain)
        case YarnScaling():
            return _yarn(config, config.scaling, plain)
        case FactorScaling(factors=factors):
            return 1.0 / (torch.tensor(factors, device=device) * _powers(config.theta, config.dim, device))
        case _:
            return plain


def _powers(theta: float, dim: int, device: torch.device | None) -> Tensor:
    powers: Tensor = theta ** (torch.arange(0, dim, 2, device=device).float() / dim)
    return powers


def _dynamic(config: RopeConfig, scaling: DynamicScaling, positions: Tensor) -> Tensor:
    """Return radians per position at each of ``positions`` ``[n, 1]``, ``[n, dim / 2]``."""
    dim = config.dim
    length = (positions + 1).clamp(min=scaling.original_context)
    stretch = scaling.factor * length / scaling.original_context - (scaling.factor - 1)
    base = config.theta * stretch ** (dim / (dim - 2))
    frequencies: Tensor = 1.0 / base ** (torch.arange(0, dim, 2, device=positions.device).float() / dim)
    return frequencies


def _llama3(scaling: Llama3Scaling, plain: Tensor) -> Tensor:
    """Keep short wavelengths, divide long ones, and blend those between by how often they turn in the old context."""
    turns = scaling.original_context / (2 * math.pi / plain)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share_kept = (turns - low) / (high - low)
    blended = (1 - share_kept) * plain / scaling.factor + share_kept * plain
    return torch.where(turns < low, plain / scaling.factor, torch.where(turns > high, plain, blended))


def _yarn(config: RopeConfig, scaling: YarnScaling, plain: Tensor) -> Tensor:
    """Blend kept and divided frequencies along a ramp between ``beta_fast`` and ``beta_slow`` turns."""
    low = _yarn_dimension(config, scaling, scaling.beta_fast)
    high = _yarn_dimension(config, scaling, scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    high = high + 0.001 if high == low else high
    index = torch.arange(config.dim // 2, device=plain.device).float()
    share_divided = ((index - low) / (high - low)).clamp(0, 1)
    divided = 1.0 / (scaling.factor * _powers(config.theta, config.dim, plain.device))
    return divided * share_divided + plain * (1 - share_divided)


def _yarn_dimension(config: RopeConfig, scaling: YarnScaling, num_turns: float) -> float:
    """Return the (fractional) dimension whose wavelength turns ``num_turns`` times in the original context."""
    ratio = scaling.original_context / (num_turns * 2 * math.pi)
    return config.dim * math.log(ratio) / (2 * math.log(config.theta))
