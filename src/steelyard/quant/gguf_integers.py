"""GGUF's blocks as integers and scales, for kernels that compute with the integers themselves.

Formats whose scales serve 32 weights or more come over without loss. Q2_K, Q3_K and Q6_K have a scale per 16 weights:
they become floats and are quantised again to 8 bits per 32 (:func:`~steelyard.quant.from_float.quantise_q8`), which
adds an error of at most half of one 127th of a block's largest weight. The weights' reader is in ``models/weights``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from steelyard.quant.blocks import BLOCK_LENGTH, Bytes, Floats, IntegerBlocks
from steelyard.quant.from_float import quantise_q8

Decoder = Callable[[Bytes], IntegerBlocks]

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]) + 128
_IQ4_NL_QUANTS = _IQ4_NL.astype(np.uint8)


def decode(data: Bytes, name: str) -> IntegerBlocks:
    """Return rows of blocks ``data``, uint8 ``[rows, row_bytes]``, of the format called ``name`` by GGUF.

    Raises:
        ValueError: as :func:`row_length` does.
    """
    row_length(data.shape[1], name)
    block_bytes, _, decoder = DECODERS[name]
    return decoder(data.reshape(len(data), data.shape[1] // block_bytes, block_bytes))


def row_length(row_bytes: int, name: str) -> int:
    """Return how many weights a row of so many bytes holds.

    Raises:
        ValueError: if the format is none of :data:`DECODERS`, or the row is no whole number of blocks.
    """
    if name not in DECODERS:
        raise ValueError(f"{name} has no integers to compute with; there are {', '.join(DECODERS)}")
    block_bytes, block_length, _ = DECODERS[name]
    if row_bytes % block_bytes:
        raise ValueError(f"a row of {row_bytes} bytes is no whole number of {name} blocks of {block_bytes}")
    return row_bytes // block_bytes * block_length


def _half(data: Bytes, start: int) -> Floats:
    """Return the float16 at byte ``start`` of each block ``[rows, blocks, bytes]`` as float32 ``[rows, blocks]``."""
    pair = np.ascontiguousarray(data[..., start : start + 2])
    halves: Floats = pair.view("<f2")[..., 0].astype(np.float32)
    return halves


def _nibbles(low: Bytes) -> Bytes:
    """Return ``[..., 2·n]`` from ``[..., n]``: first all lower halves of the bytes, then all upper halves."""
    return np.concatenate((low & 15, low >> 4), axis=-1)


def _fifth_bits(high: Bytes) -> Bytes:
    """Return ``[..., 32]`` of 0 or 16 from the 32 bits of ``[..., 4]``."""
    return np.unpackbits(high, axis=-1, bitorder="little") << np.uint8(4)


def _symmetric(quants: Bytes, scales: Floats, bits: int, offset: int) -> IntegerBlocks:
    return IntegerBlocks(
        quants=quants,
        scales=scales,
        minima=None,
        offset=offset,
        bits=bits,
        exact_halves=True,
        num_inputs=quants.shape[1] * BLOCK_LENGTH,
    )


def _with_minima(quants: Bytes, scales: Floats, minima: Floats, bits: int, *, exact_halves: bool) -> IntegerBlocks:
    return IntegerBlocks(
        quants=quants,
        scales=scales,
        minima=minima,
        offset=0,
        bits=bits,
        exact_halves=exact_halves,
        num_inputs=quants.shape[1] * BLOCK_LENGTH,
    )


def _q4_0(data: Bytes) -> IntegerBlocks:
    return _symmetric(_nibbles(data[..., 2:]), _half(data, 0), 4, 8)


def _q4_1(data: Bytes) -> IntegerBlocks:
    return _with_minima(_nibbles(data[..., 4:]), _half(data, 0), _half(data, 2), 4, exact_halves=True)


def _q5_0(data: Bytes) -> IntegerBlocks:
    quants = _nibbles(data[..., 6:]) | _fifth_bits(data[..., 2:6])
    return _symmetric(quants + np.uint8(128 - 16), _half(data, 0), 8, 128)


def _q5_1(data: Bytes) -> IntegerBlocks:
    quants = _nibbles(data[..., 8:]) | _fifth_bits(data[..., 4:8])
    return _with_minima(quants, _half(data, 0), _half(data, 2), 8, exact_halves=True)


def _q8_0(data: Bytes) -> IntegerBlocks:
    return _symmetric(data[..., 2:] ^ np.uint8(128), _half(data, 0), 8, 128)


def _iq4_nl(data: Bytes) -> IntegerBlocks:
    return _symmetric(_IQ4_NL_QUANTS[_nibbles(data[..., 2:])], _half(data, 0), 8, 128)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return scales and minima ``[..., 8]`` of 0 … 63 from the twelve bytes of a Q4_K or Q5_K block."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate((first & 63, (third & 15) | ((first >> 6) << 4)), axis=-1)
    minima = np.concatenate((second & 63, (third >> 4) | ((second >> 6) << 4)), axis=-1)
    return scales, minima


def _with_six_bit_factors(quants: Bytes, data: Bytes, bits: int) -> IntegerBlocks:
    """Return the blocks of ``quants`` ``[rows, blocks, 256 in order]`` of Q4_K or Q5_K blocks ``data``."""
    scales, minima = _six_bits(data[..., 4:16])
    rows, num_blocks = len(data), 8 * data.shape[1]
    return _with_minima(
        quants.reshape(rows, num_blocks, BLOCK_LENGTH),
        (_half(data, 0)[..., None] * scales).reshape(rows, num_blocks),
        -(_half(data, 2)[..., None] * minima).reshape(rows, num_blocks),
        bits,
        exact_halves=False,
    )


def _q4_k(data: Bytes) -> IntegerBlocks:
    return _with_six_bit_factors(_nibbles(data[..., 16:].reshape(*data.shape[:2], 4, 32)), data, 4)


def _q5_k(data: Bytes) -> IntegerBlocks:
    low = _nibbles(data[..., 48:].reshape(*data.shape[:2], 4, 32)).reshape(*data.shape[:2], 8, 32)
    high = (data[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    return _with_six_bit_factors(low | (high << np.uint8(4)), data, 8)


def _requantised(numbers: npt.NDArray[np.float32]) -> IntegerBlocks:
    """Return float32 ``[rows, blocks, 16, 16]`` as 8-bit blocks of 32."""
    return quantise_q8(torch.from_numpy(numbers.reshape(len(numbers), 256 * numbers.shape[1])))


def _bit_fields(packed: Bytes, shifts: tuple[int, ...], mask: int) -> Bytes:
    """Return ``[rows, blocks, 16, 16]``: the field at each shift of ``packed`` ``[rows, blocks, groups, n]``."""
    fields = (packed[..., None, :] >> np.array(shifts, dtype=np.uint8)[:, None]) & np.uint8(mask)
    return fields.reshape(*packed.shape[:2], 16, 16)


def _q2_k(data: Bytes) -> IntegerBlocks:
    quants = _bit_fields(data[..., 16:80].reshape(*data.shape[:2], 2, 32), (0, 2, 4, 6), 3)
    scales = _half(data, 80)[..., None] * (data[..., :16] & 15)
    minima = _half(data, 82)[..., None] * (data[..., :16] >> 4)
    return _requantised(quants.astype(np.float32) * scales[..., None] - minima[..., None])


def _q3_k(data: Bytes) -> IntegerBlocks:
    low = _bit_fields(data[..., 32:96].reshape(*data.shape[:2], 2, 32), (0, 2, 4, 6), 3)
    high = _bit_fields(data[..., None, :32], tuple(range(8)), 1)
    quants = (low | (high << 2)).astype(np.float32) - 4
    packed = data[..., 96:108]
    nibbles = _nibbles(packed[..., :8])
    upper = (packed[..., None, 8:] >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]) & 3
    scales = (nibbles | (upper.reshape(nibbles.shape) << 4)).astype(np.float32) - 32
    return _requantised(quants * (_half(data, 108)[..., None] * scales)[..., None])


def _q6_k(data: Bytes) -> IntegerBlocks:
    low = _bit_fields(data[..., :128].reshape(*data.shape[:2], 2, 64), (0, 4), 15)
    high = _bit_fields(data[..., 128:192].reshape(*data.shape[:2], 2, 32), (0, 2, 4, 6), 3)
    quants = (low | (high << 4)).astype(np.float32) - 32
    scales = _half(data, 208)[..., None] * np.ascontiguousarray(data[..., 192:208]).view(np.int8)
    return _requantised(quants * scales[..., None])


# GGUF's name → bytes of a block, weights of a block, decoder from uint8 ``[rows, blocks, bytes]``.
DECODERS: Mapping[str, tuple[int, int, Decoder]] = {
    "Q4_0": (18, 32, _q4_0),
    "Q4_1": (20, 32, _q4_1),
    "Q5_0": (22, 32, _q5_0),
    "Q5_1": (24, 32, _q5_1),
    "Q8_0": (34, 32, _q8_0),
    "IQ4_NL": (18, 32, _iq4_nl),
    "Q2_K": (84, 256, _q2_k),
    "Q3_K": (110, 256, _q3_k),
    "Q4_K": (144, 256, _q4_k),
    "Q5_K": (176, 256, _q5_k),
    "Q6_K": (210, 256, _q6_k),
}
