"""GGUF's number formats: how many numbers a block holds, how many bytes it takes, and what the numbers are.

A tensor's rows are cut into blocks; a block's bytes hold small integers and the scales (and minima) that turn them
into numbers. Block layouts are described as packed NumPy records, so that an expander reads fields by name. All
arithmetic is float32, in the order of the reference in ggml, so results are equal to it bit for bit.

Left out: writing. The codebook formats (IQ1…IQ3, IQ4_XS, ternary, MXFP4, NVFP4) are known by name and size only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Expander: TypeAlias = Callable[[Bytes, Floats], None]

_U8 = np.uint8  # a scalar of this type keeps arithmetic on bytes in bytes

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: temporaries stay near the cache, Python's overhead stays small


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One number format.

    Attributes:
        name: ggml's name.
        num_elements: numbers in a block.
        num_bytes: bytes of a block.
        expand: fills float32 ``[blocks · num_elements]`` from uint8 ``[blocks · num_bytes]``; ``None`` if the format
            is known by size only.
    """

    name: str
    num_elements: int
    num_bytes: int
    expand: Expander | None


def dequantise(blocks: Bytes, block: BlockFormat, out: Floats) -> None:
    """Fill ``out`` with the numbers of ``blocks``, a chunk at a time.

    Args:
        blocks: ``[n · num_bytes]`` uint8, contiguous.
        block: a format with an expander.
        out: ``[n · num_elements]`` float32, contiguous, overwritten.
    """
    assert block.expand is not None
    num_blocks = len(blocks) // block.num_bytes
    assert out.shape == (num_blocks * block.num_elements,)
    step = max(1, CHUNK_ELEMENTS // block.num_elements)
    with np.errstate(invalid="ignore", over="ignore"):  # non-finite scales give non-finite numbers, not warnings
        for first in range(0, num_blocks, step):
            last = min(first + step, num_blocks)
            block.expand(
                blocks[first * block.num_bytes : last * block.num_bytes],
                out[first * block.num_elements : last * block.num_elements],
            )


# --- plain numbers ---------------------------------------------------------------------------------------------------


def _f64(data: Bytes, out: Floats) -> None:
    out[:] = data.view("<f8")


def _f32(data: Bytes, out: Floats) -> None:
    out[:] = data.view("<f4")


def _f16(data: Bytes, out: Floats) -> None:
    out[:] = data.view("<f2")


def _bf16(data: Bytes, out: Floats) -> None:
    """Put the 16 bits into the upper half of a float32."""
    np.left_shift(data.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


# --- blocks of 32: one scale, maybe one minimum ----------------------------------------------------------------------

_Q4_0 = np.dtype([("d", "<f2"), ("low", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("low", "u1", 16)])
_Q5_0 = np.dtype([("d", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
_Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])

_IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)  # fmt: skip


def _column(scale: npt.NDArray[np.float16]) -> Floats:
    """Return ``[blocks]`` float16 as ``[blocks, 1]`` float32."""
    return scale.astype(np.float32)[:, None]


def _nibbles(low: Bytes) -> Bytes:
    """Return ``[blocks, 32]`` from ``[blocks, 16]``: first all lower halves of the bytes, then all upper halves."""
    return np.concatenate((low & 15, low >> 4), axis=1)


def _fifth_bits(high: Bytes) -> Bytes:
    """Return ``[blocks, 32]`` of 0 or 16 from the 32 bits of ``[blocks, 4]``."""
    return np.unpackbits(high, axis=1, bitorder="little") << _U8(4)


def _q4_0(data: Bytes, out: Floats) -> None:
    record, rows = data.view(_Q4_0), out.reshape(-1, 32)
    rows[:] = _nibbles(record["low"]).view(np.int8) - np.int8(8)
    rows *= _column(record["d"])


def _q4_1(data: Bytes, out: Floats) -> None:
    record, rows = data.view(_Q4_1), out.reshape(-1, 32)
    rows[:, :16] = record["low"] & 15
    rows[:, 16:] = record["low"] >> 4
    rows *= _column(record["d"])
    rows += _column(record["m"])


def _q5_0(data: Bytes, out: Floats) -> None:
    record, rows = data.view(_Q5_0), out.reshape(-1, 32)
    rows[:] = (_nibbles(record["low"]) | _fifth_bits(record["high"])).view(np.int8) - np.int8(16)
    rows *= _column(record["d"])


def _q5_1(data: Bytes, out: Floats) -> None:
    record, rows = data.view(_Q5_1), out.reshape(-1, 32)
    rows[:] = _nibbles(record["low"]) | _fifth_bits(record["high"])
    rows *= _column(record["d"])
    rows += _column(record["m"])


def _q8_0(data: Bytes, out: Floats) -> None:
    record = data.view(_Q8_0)
    np.multiply(record["q"], _column(record["d"]), out=out.reshape(-1, 32), dtype=np.float32)


def _iq4_nl(data: Bytes, out: Floats) -> None:
    record, rows = data.view(_Q4_0), out.reshape(-1, 32)
    np.take(_IQ4_NL_VALUES, _nibbles(record["low"]), out=rows, mode="clip")  # a nibble never clips
    rows *= _column(record["d"])


# --- super-blocks of 256: scales of 16 or 32 numbers each, themselves quantised --------------------------------------

_Q2_K = np.dtype([("scales", "u1", 16), ("low", "u1", (2, 1, 32)), ("d", "<f2"), ("m", "<f2")])
_Q3_K = np.dtype([("high", "u1", (1, 32)), ("low", "u1", (2, 1, 32)), ("scales", "u1", 12), ("d", "<f2")])
_Q4_K = np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("low", "u1", (4, 1, 32))])
_Q5_K = np.dtype(
    [("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("high", "u1", (1, 32)), ("low", "u1", (4, 1, 32))]
)  # fmt: skip
_Q6_K = np.dtype([("low", "u1", (2, 1, 64)), ("high", "u1", (2, 1, 32)), ("scales", "i1", 16), ("d", "<f2")])

_TWO_BITS = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
_FOUR_BITS = np.array([0, 4], dtype=np.uint8)[:, None]
_ONE_BIT = np.arange(8, dtype=np.uint8)[:, None]


def _fields(packed: Bytes, shifts: Bytes, mask: int, width: int) -> Bytes:
    """Return ``[blocks, 256 / width, width]``: for each group of bytes, the bit field at each shift in turn.

    Args:
        packed: ``[blocks, groups, 1, bytes]``.
        shifts: ``[shifts, 1]``.
        mask: which bits are left after shifting.
        width: numbers that share one scale.
    """
    return ((packed >> shifts) & _U8(mask)).reshape(len(packed), 256 // width, width)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the eight scales and eight minima, each ``[blocks, 8]`` of 0…63, of a Q4_K or Q5_K block.

    Bytes 0–3 hold scales 0–3 and bytes 4–7 minima 0–3 in their lower six bits; bytes 8–11 hold the lower four bits of
    scales and minima 4–7, whose upper two bits are the top bits of bytes 0–7.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (third & 15) | ((first >> 6) << 4)), axis=1)
    minima = np.concatenate((second & 63, (third >> 4) | ((second >> 6) << 4)), axis=1)
    return scales, minima


def _scale_and_shift(
    numbers: Bytes, d: npt.NDArray[np.float16], scales: Bytes, m: npt.NDArray[np.float16], minima: Bytes, out: Floats
) -> None:
    """Write ``(d·scale)·number − (m·minimum)`` for ``numbers`` ``[blocks, scales, width]``."""
    rows = out.reshape(numbers.shape)
    np.multiply(numbers, (_column(d) * scales)[..., None], out=rows, dtype=np.float32)
    rows -= (_column(m) * minima)[..., None]


def _q2_k(data: Bytes, out: Floats) -> None:
    record = data.view(_Q2_K)
    numbers = _fields(record["low"], _TWO_BITS, 3, 16)
    _scale_and_shift(numbers, record["d"], record["scales"] & _U8(15), record["m"], record["scales"] >> _U8(4), out)


def _q3_k_scales(packed: Bytes) -> npt.NDArray[np.int8]:
    """Return sixteen scales ``[blocks, 16]`` of −32…31: lower four bits from bytes 0–7, upper two from bytes 8–11."""
    low = np.concatenate((packed[:, :8] & 15, packed[:, :8] >> 4), axis=1)
    high = (packed[:, None, 8:] >> _TWO_BITS) & 3
    scales: npt.NDArray[np.int8] = (low | (high.reshape(-1, 16) << 4)).view(np.int8) - np.int8(32)
    return scales


def _q3_k(data: Bytes, out: Floats) -> None:
    record = data.view(_Q3_K)
    low = _fields(record["low"], _TWO_BITS, 3, 16)
    high = _fields(record["high"][:, None], _ONE_BIT, 1, 16)
    numbers = (low | (high << 2)).view(np.int8) - np.int8(4)  # a set high bit means "not four less"
    scales = _column(record["d"]) * _q3_k_scales(record["scales"])
    np.multiply(numbers, scales[..., None], out=out.reshape(-1, 16, 16), dtype=np.float32)


def _q4_k(data: Bytes, out: Floats) -> None:
    record = data.view(_Q4_K)
    scales, minima = _six_bit_scales(record["scales"])
    numbers = _fields(record["low"], _FOUR_BITS, 15, 32)
    _scale_and_shift(numbers, record["d"], scales, record["m"], minima, out)


def _q5_k(data: Bytes, out: Floats) -> None:
    record = data.view(_Q5_K)
    scales, minima = _six_bit_scales(record["scales"])
    numbers = _fields(record["low"], _FOUR_BITS, 15, 32)
    numbers |= _fields(record["high"][:, None], _ONE_BIT, 1, 32) << 4
    _scale_and_shift(numbers, record["d"], scales, record["m"], minima, out)


def _q6_k(data: Bytes, out: Floats) -> None:
    record = data.view(_Q6_K)
    packed = _fields(record["low"], _FOUR_BITS, 15, 16) | (_fields(record["high"], _TWO_BITS, 3, 16) << 4)
    numbers = packed.view(np.int8) - np.int8(32)
    scales = _column(record["d"]) * record["scales"]
    np.multiply(numbers, scales[..., None], out=out.reshape(-1, 16, 16), dtype=np.float32)


# --- the table -------------------------------------------------------------------------------------------------------

# GGUF's type number → format. Numbers 4, 5, 31–33 and 36–38 were given up by ggml.
BLOCK_FORMATS: Mapping[int, BlockFormat] = {
    0: BlockFormat("F32", 1, 4, _f32),
    1: BlockFormat("F16", 1, 2, _f16),
    2: BlockFormat("Q4_0", 32, 18, _q4_0),
    3: BlockFormat("Q4_1", 32, 20, _q4_1),
    6: BlockFormat("Q5_0", 32, 22, _q5_0),
    7: BlockFormat("Q5_1", 32, 24, _q5_1),
    8: BlockFormat("Q8_0", 32, 34, _q8_0),
    10: BlockFormat("Q2_K", 256, 84, _q2_k),
    11: BlockFormat("Q3_K", 256, 110, _q3_k),
    12: BlockFormat("Q4_K", 256, 144, _q4_k),
    13: BlockFormat("Q5_K", 256, 176, _q5_k),
    14: BlockFormat("Q6_K", 256, 210, _q6_k),
    16: BlockFormat("IQ2_XXS", 256, 66, None),
    17: BlockFormat("IQ2_XS", 256, 74, None),
    18: BlockFormat("IQ3_XXS", 256, 98, None),
    19: BlockFormat("IQ1_S", 256, 50, None),
    20: BlockFormat("IQ4_NL", 32, 18, _iq4_nl),
    21: BlockFormat("IQ3_S", 256, 110, None),
    22: BlockFormat("IQ2_S", 256, 82, None),
    23: BlockFormat("IQ4_XS", 256, 136, None),
    24: BlockFormat("I8", 1, 1, None),
    25: BlockFormat("I16", 1, 2, None),
    26: BlockFormat("I32", 1, 4, None),
    27: BlockFormat("I64", 1, 8, None),
    28: BlockFormat("F64", 1, 8, _f64),
    29: BlockFormat("IQ1_M", 256, 56, None),
    30: BlockFormat("BF16", 1, 2, _bf16),
    34: BlockFormat("TQ1_0", 256, 54, None),
    35: BlockFormat("TQ2_0", 256, 66, None),
    39: BlockFormat("MXFP4", 32, 17, None),
    40: BlockFormat("NVFP4", 64, 36, None),
}

READABLE_FORMATS: tuple[str, ...] = tuple(block.name for block in BLOCK_FORMATS.values() if block.expand)
