"""Quantisers: float weights to blocks of 32 small integers.

``q8`` is symmetric: the largest magnitude of a block becomes 127. ``q4`` is 4 bits with a scale and a minimum, chosen
per block among a few ranges, each refined by least squares, by the smallest squared error. Scales are rounded to
float16 first and the integers chosen for the rounded ones. Left out: importance weights and error feedback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.units import round_up
from steelyard.quant.blocks import BLOCK_LENGTH, IntegerBlocks

Q8_OFFSET = 128
_Q4_LEVELS = 15
_Q4_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 1.05)  # of the span between smallest and largest
_Q4_REFINEMENTS = 2
_HALF_MAX = 65504.0


def quantise_q8(weight: Tensor) -> IntegerBlocks:
    """Return float ``[rows, inputs]`` as 8-bit blocks with a float16 scale, offset 128.

    A weight is off by at most half a scale, and 2⁻¹¹ of itself for the rounding of the scale. The scale is the block's
    largest magnitude over 127, at most 65504; below 6e-5 float16 itself becomes coarse.
    """
    blocks = _blocks(weight)
    scales = _half(blocks.abs().amax(dim=-1) / 127)
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    quants = (blocks * inverse[..., None]).round_().clamp_(-127, 127) + Q8_OFFSET
    return _integer_blocks(quants, scales, None, bits=8, num_inputs=weight.shape[1])


def quantise_q4(weight: Tensor) -> IntegerBlocks:
    """Return float ``[rows, inputs]`` as 4-bit blocks with a float16 scale and minimum.

    The squared error of a block is never above that of the plain choice, which spans from smallest to largest.
    """
    blocks = _blocks(weight, pad_by_repeating=True)
    low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)
    best = _Choice(blocks, (high - low) / _Q4_LEVELS, low)
    for part in _Q4_RANGES:
        span, middle = (high - low) * part, (high + low) / 2
        choice = _Choice(blocks, span / _Q4_LEVELS, middle - span / 2)
        for _ in range(_Q4_REFINEMENTS):
            choice = _Choice(blocks, *_least_squares(blocks, choice.quants))
        best = best.better(choice)
    return _integer_blocks(best.quants, best.scales, best.minima, bits=4, num_inputs=weight.shape[1])


QUANTISERS: Mapping[str, Callable[[Tensor], IntegerBlocks]] = {"q8": quantise_q8, "q4": quantise_q4}


class _Choice:
    """Scales and minima ``[rows, blocks]``, rounded to float16, with the nearest quants and the squared error."""

    def __init__(self, blocks: Tensor, scales: Tensor, minima: Tensor) -> None:
        self.scales, self.minima = _half(scales), _half(minima)
        inverse = torch.where(self.scales > 0, 1 / self.scales, 0.0)
        self.quants = ((blocks - self.minima[..., None]) * inverse[..., None]).round_().clamp_(0, _Q4_LEVELS)
        self.error = (self.quants * self.scales[..., None] + self.minima[..., None] - blocks).square().sum(dim=-1)

    def better(self, other: _Choice) -> _Choice:
        """Return the better of two, block by block."""
        wins = other.error < self.error
        chosen = object.__new__(_Choice)
        chosen.scales = torch.where(wins, other.scales, self.scales)
        chosen.minima = torch.where(wins, other.minima, self.minima)
        chosen.quants = torch.where(wins[..., None], other.quants, self.quants)
        chosen.error = torch.where(wins, other.error, self.error)
        return chosen


def _least_squares(blocks: Tensor, quants: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and minima that fit given quants best."""
    mean_q, mean_x = quants.mean(dim=-1), blocks.mean(dim=-1)
    centred = quants - mean_q[..., None]
    spread = centred.square().sum(dim=-1)
    scales = torch.where(spread > 0, (centred * blocks).sum(dim=-1) / spread.clamp_min(1e-30), 0.0).clamp_min(0)
    return scales, mean_x - scales * mean_q


def _blocks(weight: Tensor, *, pad_by_repeating: bool = False) -> Tensor:
    """Return ``[rows, inputs]`` as float32 ``[rows, blocks, 32]``, filled up with zeros or the row's last weight."""
    wide = weight.detach().float()
    missing = round_up(wide.shape[1], BLOCK_LENGTH) - wide.shape[1]
    if missing and pad_by_repeating:
        wide = torch.cat((wide, wide[:, -1:].expand(-1, missing)), dim=1)
    elif missing:
        wide = F.pad(wide, (0, missing))
    return wide.reshape(len(wide), wide.shape[1] // BLOCK_LENGTH, BLOCK_LENGTH)


def _half(numbers: Tensor) -> Tensor:
    """Return float32 numbers rounded to float16, within its range."""
    return numbers.clamp(-_HALF_MAX, _HALF_MAX).half().float()


def _integer_blocks(
    quants: Tensor, scales: Tensor, minima: Tensor | None, *, bits: int, num_inputs: int
) -> IntegerBlocks:
    offset = Q8_OFFSET if minima is None else 0
    quants.flatten(1)[:, num_inputs:] = offset
    return IntegerBlocks(
        quants=quants.to(torch.uint8).numpy(),
        scales=scales.numpy(),
        minima=None if minima is None else minima.numpy(),
        offset=offset,
        bits=bits,
        exact_halves=True,
        num_inputs=num_inputs,
    )
