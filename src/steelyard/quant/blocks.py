"""Weights as small integers in blocks of 32, each block with a scale and maybe a minimum.

``w = d·(q − offset)`` without minima and ``w = d·q + m`` with them. This is the common ground between number formats on
disk, quantisers and packed kernels' layouts. Left out: formats with codebooks over several weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from steelyard.core.units import ceil_div

BLOCK_LENGTH = 32

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerBlocks:
    """Rows of quantised weights.

    Attributes:
        quants: uint8 ``[rows, blocks, 32]``; past the last input they are ``offset``.
        scales: ``d``, float32 ``[rows, blocks]``.
        minima: ``m``, float32 ``[rows, blocks]``, or ``None`` for formats that have an offset instead.
        offset: what is subtracted from every quant: 0 if there are minima.
        bits: of a quant, 4 or 8.
        exact_halves: whether scales and minima are exactly representable in float16.
        num_inputs: weights in a row.
    """

    quants: Bytes
    scales: Floats
    minima: Floats | None
    offset: int
    bits: int
    exact_halves: bool
    num_inputs: int

    def __post_init__(self) -> None:
        rows, blocks, length = self.quants.shape
        assert length == BLOCK_LENGTH
        assert blocks == ceil_div(self.num_inputs, BLOCK_LENGTH)
        assert self.scales.shape == (rows, blocks)
        assert self.minima is None or (self.minima.shape == (rows, blocks) and self.offset == 0)

    def dequantise(self) -> Floats:
        """Return the weights, float32 ``[rows, num_inputs]``, each rounded once."""
        numbers = self.quants.astype(np.float32) - np.float32(self.offset)
        numbers *= self.scales[..., None]  # exact: few bits times few bits
        if self.minima is not None:
            numbers += self.minima[..., None]
        rows, blocks, length = numbers.shape
        return numbers.reshape(rows, blocks * length)[:, : self.num_inputs]

    def with_minima(self) -> IntegerBlocks:
        """Return the same weights as 8-bit quants with float32 scales and minima, which every format can become."""
        minima = np.float32(-self.offset) * self.scales if self.minima is None else self.minima
        return IntegerBlocks(
            quants=self.quants,
            scales=self.scales,
            minima=minima,
            offset=0,
            bits=8,
            exact_halves=False,
            num_inputs=self.num_inputs,
        )
