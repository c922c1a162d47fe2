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
    """cos and sin by position, computed when first asked for, at least doubling each time.

    Args:
        config: the embedding.
        context_length: on an accelerator, where asking for the largest position would stall it, the table is made
            this long at once.
    """

    def __init__(self, config: RopeConfig, context_length: int) -> None:
        self.config, self.context_length = config, context_length
        self._table: Tensor | None = None  # [2, positions, dim] float32: cos and signed sin

    def lookup(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` ``[tokens]`` int64 in ``dtype``."""
        cos, sin = self._grown(positions)[:, positions, None].to(dtype)
        return cos, sin

    @torch.inference_mode(False)  # a table made while serving must not be unusable in training
    def _grown(self, positions: Tensor) -> Tensor:
        table, device = self._table, positions.device
        if table is None or table.device != device:
            table = torch.empty(2, 0, self.config.dim, device=device)
        num_known = table.shape[1]
        on_cpu = device.type == "cpu"
        needed = (int(positions.max()) + 1 if len(positions) else 0) if on_cpu else self.context_length
        if needed > num_known:
            new = rope_table(self.config, num_known, round_up(max(needed, 2 * num_known), TABLE_BLOCK), device)
            table = torch.cat((table, new), dim=1)
        self._table = table
        return table


def rope_table(config: RopeConfig, start: int, stop: int, device: torch.device) -> Tensor:
    """Return cos and signed sin of positions ``start … stop − 1``, multiples of the block: ``[2, n, dim]`` float32."""
    assert start % TABLE_BLOCK == stop % TABLE_BLOCK == 0
    scale = attention_factor(config)
    blocks = []
    for first in range(start, stop, TABLE_BLOCK):
        positions = torch.arange(first, first + TABLE_BLOCK, device=device).float()[:, None]
        angles = positions * _frequencies_at(config, positions)
        cos, sin = angles.cos() * scale, angles.sin() * scale
        blocks.append(torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))))
    return torch.cat(blocks, dim=1)


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


def _frequencies_at(config: RopeConfig, positions: Tensor) -> Tensor:
    """Return radians per position, ``[dim / 2]``, or for dynamic scaling one row per position ``[n, dim / 2]``."""
    scaling, dim = config.scaling, config.dim
    if not isinstance(scaling, DynamicScaling):
        return inverse_frequencies(config, positions.device)
    length = (positions + 1).clamp(min=scaling.original_context)
    stretch = scaling.factor * length / scaling.original_context - (scaling.factor - 1)
    base = config.theta * stretch ** (dim / (dim - 2))
    return 1.0 / base ** (torch.arange(0, dim, 2, device=positions.device).float() / dim)


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
