"""A quantised weight matrix in the layout that the compiled integer kernels stream (``csrc/qgemm/formats.hpp``).

Panels of 16 output features hold, block of 32 inputs after block, the integers of all 16 features, their scales and
their minima. Packing scatters rows: each source row names its place, so that fused projections, permuted heads and
alternating gate and up panels are nothing but row maps. Packing loses nothing unless :mod:`steelyard.quant` says so.

The compiled packer takes GGUF's commonest formats; NumPy does the others, and all where the extension is missing. Left
out: the products (:mod:`steelyard.kernels.qlinear`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steelyard.core.units import MIB, ceil_div, round_up
from steelyard.kernels.huge_pages import zeroed_huge_pages
from steelyard.kernels.native import native_kernels
from steelyard.kernels.threads import thread_pool
from steelyard.quant.blocks import BLOCK_LENGTH, IntegerBlocks
from steelyard.quant.from_float import QUANTISERS
from steelyard.quant.gguf_integers import decode, row_length

PANEL_WIDTH = 16
ALIGNMENT = 64  # bytes

Bytes = npt.NDArray[np.uint8]
RowMap = npt.NDArray[np.int32]
Part = tuple[Bytes, str, RowMap]  # rows of GGUF blocks [rows, row bytes], GGUF's name of the format, destination rows
Allocator = Callable[[int], Tensor]  # number of bytes → that many zeros, uint8, aligned to ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFormat:
    """One layout of records.

    Attributes:
        name: as in ``formats.hpp``.
        bits: of a quant, 4 or 8.
        scale: dtype of scales and minima.
        minima: whether records end with minima; otherwise quants are offset by half their range.
    """

    name: str
    bits: int
    scale: np.dtype[np.floating]
    minima: bool

    @property
    def offset(self) -> int:
        """What is subtracted from each quant."""
        return 0 if self.minima else 1 << (self.bits - 1)

    @property
    def record(self) -> np.dtype[np.void]:
        """One block of 32 inputs of one panel, as a NumPy record."""
        fields: list[tuple[str, object, tuple[int, ...]]] = [
            ("quants", np.uint8, (self.bits, PANEL_WIDTH, 4)),
            ("scales", self.scale, (PANEL_WIDTH,)),
        ]
        if self.minima:
            fields.append(("minima", self.scale, (PANEL_WIDTH,)))
        return np.dtype(fields)


_HALF: np.dtype[np.floating] = np.dtype("<f2")
_SINGLE: np.dtype[np.floating] = np.dtype("<f4")

PACKED_FORMATS: Mapping[str, PackedFormat] = {
    packed.name: packed
    for packed in (
        PackedFormat(name="q4_0", bits=4, scale=_HALF, minima=False),
        PackedFormat(name="q4_1", bits=4, scale=_HALF, minima=True),
        PackedFormat(name="q4_k", bits=4, scale=_SINGLE, minima=True),
        PackedFormat(name="q8_0", bits=8, scale=_HALF, minima=False),
        PackedFormat(name="q8_1", bits=8, scale=_HALF, minima=True),
        PackedFormat(name="q8_k", bits=8, scale=_SINGLE, minima=True),
    )
}

# GGUF's format → the packed format that holds it best.
PACKED_FROM: Mapping[str, str] = {
    "Q4_0": "q4_0",
    "Q4_1": "q4_1",
    "Q4_K": "q4_k",
    "Q8_0": "q8_0",
    "Q5_0": "q8_0",
    "IQ4_NL": "q8_0",
    "Q5_1": "q8_1",
    "Q5_K": "q8_k",
    "Q2_K": "q8_0",
    "Q3_K": "q8_0",
    "Q6_K": "q8_0",
}
_MIXED = "q8_k"  # what parts of unlike formats have in common
_NATIVE_SOURCES = ("Q4_0", "Q4_1", "Q4_K", "Q8_0")


def zeros(num_bytes: int) -> Tensor:
    """Return zeros, uint8 ``[num_bytes]``, aligned, in memory of their own."""
    memory = torch.zeros(num_bytes + ALIGNMENT, dtype=torch.uint8)
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + num_bytes]


class HugePageArena:
    """Memory for many matrices in few large mappings, on huge pages where the system offers them.

    A mapping is freed when no tensor of it is left.

    Args:
        chunk_bytes: of a mapping, unless one request needs more.
    """

    def __init__(self, chunk_bytes: int = 64 * MIB) -> None:
        self._chunk_bytes = chunk_bytes
        self._free = torch.empty(0, dtype=torch.uint8)

    def __call__(self, num_bytes: int) -> Tensor:
        """Return zeros, uint8 ``[num_bytes]``, aligned."""
        needed = round_up(num_bytes, ALIGNMENT)
        if needed > len(self._free):
            self._free = zeroed_huge_pages(max(needed, self._chunk_bytes))
        taken, self._free = self._free[:num_bytes], self._free[needed:]
        return taken


class PackedMatrix:
    """Quantised weights ``[num_rows, num_inputs]``, packed.

    Attributes:
        data: the panels, uint8 ``[num_bytes]``, 64-byte aligned.
        format: one of :data:`PACKED_FORMATS`.
        num_rows: output features.
        num_inputs: what one output is summed over.
    """

    def __init__(self, data: Tensor, format: str, num_rows: int, num_inputs: int) -> None:
        assert data.numel() == packed_bytes(format, num_rows, num_inputs)
        assert data.data_ptr() % ALIGNMENT == 0
        self.data, self.format, self.num_rows, self.num_inputs = data, format, num_rows, num_inputs

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed form, padding included."""
        return self.data.numel()

    @classmethod
    def from_gguf(
        cls, parts: Sequence[Part], *, num_rows: int | None = None, allocate: Allocator = zeros
    ) -> PackedMatrix:
        """Pack rows of GGUF blocks.

        Parts of one format keep it (:data:`PACKED_FROM`); unlike ones meet in 8 bits with float32 factors, which loses
        nothing but takes more memory than packing them apart.

        Args:
            parts: arrays uint8 ``[rows, row_bytes]`` with contiguous rows, GGUF's name of their format, and the
                destination of each row.
            num_rows: of the matrix; by default up to the last destination. Rows that nothing goes to are zero.
            allocate: where the matrix goes.

        Raises:
            ValueError: for a format without integers to compute with, rows of different lengths, or destinations that
                are out of range, doubled, or not one per row.
        """
        total = _checked_rows([rows for _, _, rows in parts], [len(data) for data, _, _ in parts], num_rows)
        num_inputs = _common({row_length(data.shape[1], name) for data, name, _ in parts})
        formats = {PACKED_FROM[name] for _, name, _ in parts}
        common = formats.pop() if len(formats) == 1 else _MIXED
        packed = _empty(common, total, num_inputs, allocate)
        for data, name, rows in parts:
            if common == PACKED_FROM[name] and _pack_native(packed, data, name, rows):
                continue
            _pack(packed, decode(data, name), rows)
        return packed

    @classmethod
    def from_float(
        cls,
        weight: Tensor,
        quantiser: str,
        rows: RowMap | None = None,
        *,
        num_rows: int | None = None,
        allocate: Allocator = zeros,
    ) -> PackedMatrix:
        """Quantise and pack float ``[rows, inputs]``, a few thousand rows at a time.

        Args:
            weight: on the CPU, any floating dtype.
            quantiser: ``q8`` or ``q4``, see :mod:`steelyard.quant.from_float`.
            rows: destination of each row; in order if left out.
            num_rows: as in :meth:`from_gguf`.
            allocate: as in :meth:`from_gguf`.

        Raises:
            ValueError: for an unknown quantiser, or destinations as in :meth:`from_gguf`.
        """
        if quantiser not in QUANTISERS:
            raise ValueError(f"there is no quantiser {quantiser!r}; there are {', '.join(QUANTISERS)}")
        destinations = np.arange(len(weight), dtype=np.int32) if rows is None else rows
        total = _checked_rows([destinations], [len(weight)], num_rows)
        packed = _empty({"q8": "q8_0", "q4": "q4_1"}[quantiser], total, weight.shape[1], allocate)
        step = max(PANEL_WIDTH, (1 << 22) // max(weight.shape[1], 1))
        for first in range(0, len(weight), step):
            part = slice(first, first + step)
            _pack(packed, QUANTISERS[quantiser](weight[part]), destinations[part])
        return packed

    def dequantise(self) -> Tensor:
        """Return the weights, float32 ``[num_rows, num_inputs]``."""
        return self.rows(torch.arange(self.num_rows))

    def rows(self, indices: Tensor) -> Tensor:
        """Return chosen rows, e.g. embeddings, float32 ``[len(indices), num_inputs]``.

        Args:
            indices: int64 ``[rows]``, each in ``0 … num_rows − 1``.

        Raises:
            IndexError: if one is out of range.
        """
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= self.num_rows):
            raise IndexError(f"rows are 0 … {self.num_rows - 1}")
        native = native_kernels()
        if native is None:
            return torch.from_numpy(_unpack(self, indices.numpy()))
        indices = indices.to(torch.int64).contiguous()
        out = torch.empty(len(indices), self.num_inputs)
        native.dequantise_rows(
            thread_pool(),
            self.format,
            self.data.data_ptr(),
            self.num_rows,
            self.num_inputs,
            indices.data_ptr(),
            len(indices),
            out.data_ptr(),
        )
        return out


def packed_bytes(format: str, num_rows: int, num_inputs: int) -> int:
    """Return the size of a packed matrix."""
    num_records = ceil_div(num_rows, PANEL_WIDTH) * ceil_div(num_inputs, BLOCK_LENGTH)
    return num_records * PACKED_FORMATS[format].record.itemsize


def alternating_rows(num_features: int) -> tuple[RowMap, RowMap]:
    """Return the destinations of ``num_features`` gate and as many up rows, for gated epilogues.

    Panels of 16 gate and 16 up features alternate. A number of features that is no multiple of 16 leaves rows empty.
    """
    feature = np.arange(num_features, dtype=np.int32)
    gate = feature // PANEL_WIDTH * (2 * PANEL_WIDTH) + feature % PANEL_WIDTH
    return gate, gate + PANEL_WIDTH


def _common(numbers: Iterable[int]) -> int:
    first, *others = set(numbers)
    if others:
        raise ValueError("parts of one matrix must have equally long rows")
    return first


def _checked_rows(maps: Sequence[RowMap], lengths: Sequence[int], num_rows: int | None) -> int:
    """Return the number of rows of the matrix, after checking the destinations."""
    if any(len(rows) != length for rows, length in zip(maps, lengths, strict=True)):
        raise ValueError("each row needs one destination")
    destinations = np.concatenate([np.asarray(rows) for rows in maps]) if maps else np.zeros(0, dtype=np.int32)
    last = int(destinations.max(initial=-1))
    total = last + 1 if num_rows is None else num_rows
    if int(destinations.min(initial=0)) < 0 or last >= total:
        raise ValueError(f"destinations must be 0 … {total - 1}")
    if len(np.unique(destinations)) != len(destinations):
        raise ValueError("two rows have the same destination")
    return total


def _empty(format: str, num_rows: int, num_inputs: int, allocate: Allocator) -> PackedMatrix:
    """Return a matrix of zeros: all scales are 0, whatever the quants mean."""
    return PackedMatrix(allocate(packed_bytes(format, num_rows, num_inputs)), format, num_rows, num_inputs)


def _pack_native(packed: PackedMatrix, data: Bytes, name: str, rows: RowMap) -> bool:
    """Pack by the compiled packer, if it is there and knows the format; return whether it did."""
    native = native_kernels()
    if native is None or name not in _NATIVE_SOURCES or not len(data):
        return False
    if data.strides[1] != 1:
        data = np.ascontiguousarray(data)
    destinations = np.ascontiguousarray(rows, dtype=np.int32)
    native.pack_gguf(
        thread_pool(),
        name,
        data.ctypes.data,
        data.strides[0],
        len(data),
        destinations.ctypes.data,
        packed.data.data_ptr(),
        packed.num_inputs,
    )
    return True


def _records(packed: PackedMatrix) -> npt.NDArray[np.void]:
    """Return a view of the records ``[panels, blocks]``."""
    records = packed.data.numpy().view(PACKED_FORMATS[packed.format].record)
    return records.reshape(-1, ceil_div(packed.num_inputs, BLOCK_LENGTH))


def _pack(packed: PackedMatrix, blocks: IntegerBlocks, rows: RowMap) -> None:
    """Write integer blocks to their rows, by NumPy."""
    kind = PACKED_FORMATS[packed.format]
    if (blocks.bits, blocks.offset) != (kind.bits, kind.offset):
        blocks = blocks.with_minima()
    assert (blocks.bits, blocks.offset) == (kind.bits, kind.offset)
    assert blocks.exact_halves or kind.scale == _SINGLE
    records, panel, lane = _records(packed), rows // PANEL_WIDTH, rows % PANEL_WIDTH
    quants = blocks.quants
    if kind.bits == 4:
        quants = quants[..., :16] | (quants[..., 16:] << np.uint8(4))
    fours = quants.reshape(*quants.shape[:2], kind.bits, 4)
    records["quants"][panel, :, :, lane] = fours
    records["scales"][panel, :, lane] = blocks.scales
    if blocks.minima is not None:
        records["minima"][panel, :, lane] = blocks.minima


def _unpack(packed: PackedMatrix, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return rows of weights, float32, by NumPy."""
    kind, records = PACKED_FORMATS[packed.format], _records(packed)
    panel, lane = indices // PANEL_WIDTH, indices % PANEL_WIDTH
    quants = records["quants"][panel, :, :, lane].reshape(len(indices), records.shape[1], kind.bits * 4)
    if kind.bits == 4:
        quants = np.concatenate((quants & 15, quants >> 4), axis=-1)
    return IntegerBlocks(
        quants=quants,
        scales=records["scales"][panel, :, lane].astype(np.float32),
        minima=records["minima"][panel, :, lane].astype(np.float32) if kind.minima else None,
        offset=kind.offset,
        bits=kind.bits,
        exact_halves=kind.scale == _HALF,
        num_inputs=packed.num_inputs,
    ).dequantise()
