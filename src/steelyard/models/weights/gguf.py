"""A GGUF file as a :class:`~steelyard.models.weights.source.WeightSource`, memory-mapped.

Opening reads the header only. Tensors are dequantised when asked for, a chunk at a time, so a model is loaded with
little more memory than the result takes. Left out: files split over several parts, and writing.

A file that another program shortens while it is mapped ends the process, as with every memory map.
"""

from __future__ import annotations

import math
import mmap
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from steelyard.core.errors import WeightsError
from steelyard.core.units import round_up
from steelyard.models.weights.gguf_blocks import CHUNK_ELEMENTS, READABLE_FORMATS, BlockFormat, Bytes, dequantise
from steelyard.models.weights.gguf_header import DOWNLOAD_AGAIN, GGUFTensor, GGUFValue, parse_header, printable
from steelyard.models.weights.source import missing_tensor

SPLIT_KEY = "split.count"

# Formats that torch has too: their bytes can be used where they lie.
_TORCH_DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GGUFFile:
    """A GGUF file, version 2 or 3, little-endian.

    Attributes:
        path: the file.
        version: of the GGUF format.
        alignment: what tensors' offsets are multiples of, bytes.
        metadata: key → value; arrays are tuples.

    Args:
        path: the file.

    Raises:
        WeightsError: if the file is missing, cannot be read, or is not a sound GGUF file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.name
        self._map: mmap.mmap | None = _map(self.path)
        header = parse_header(self._map, self._file)
        self.version = header.version
        self.alignment = header.alignment
        self.metadata: Mapping[str, GGUFValue] = header.metadata
        self._tensors = header.tensors
        _refuse_split(self.metadata, self._file)

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def names(self) -> frozenset[str]:
        """See :meth:`WeightSource.names`."""
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """See :meth:`WeightSource.shape`; the reverse of GGUF's own order."""
        return self._entry(name).shape

    def num_bytes(self, name: str) -> int:
        """See :meth:`WeightSource.num_bytes`; for an unknown format, an upper bound."""
        return self._entry(name).num_bytes

    def format(self, name: str) -> str:
        """See :meth:`WeightSource.format`; ``type 99`` for a format whose number is not known."""
        entry = self._entry(name)
        return f"type {entry.type_id}" if entry.block is None else entry.block.name

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """See :meth:`WeightSource.tensor`."""
        entry = self._entry(name)
        return self._elements(entry, 0, math.prod(entry.shape), dtype).view(entry.shape)

    def rows(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """See :meth:`WeightSource.rows`."""
        entry = self._entry(name)
        assert 0 <= start <= stop <= entry.shape[0]
        row = math.prod(entry.shape[1:])
        return self._elements(entry, start * row, stop * row, dtype).view(stop - start, *entry.shape[1:])

    def blocks(self, name: str) -> Bytes:
        """Return the stored bytes of a tensor, for kernels that compute with the blocks themselves.

        Returns:
            A view of the map, uint8 ``[rows, row_bytes]``; all dimensions but the last count as rows, and a row is a
            whole number of blocks of :meth:`format`. It keeps the map alive and is not to be written.

        Raises:
            WeightsError: if there is no such tensor, its format is not known, or a row ends within a block.
        """
        entry = self._entry(name)
        if entry.block is None or entry.shape[-1] % entry.block.num_elements:
            raise WeightsError(
                f"its rows of {self.format(name)} are no whole blocks",
                field=f"{self._file}[{printable(name)}]",
                remedy="Read it as numbers",
            )
        row_bytes = entry.shape[-1] // entry.block.num_elements * entry.block.num_bytes
        num_rows = math.prod(entry.shape[:-1])
        return self._bytes(entry.offset, num_rows * row_bytes).reshape(num_rows, row_bytes)

    def forget(self, name: str) -> None:
        """Give back the memory that a tensor's mapped bytes take; read again, they come back by themselves.

        What was written into tensors that share these bytes would be lost, so it is for blocks that were packed.
        """
        entry = self._entry(name)
        begin = round_up(entry.offset, mmap.PAGESIZE)
        end = (entry.offset + entry.num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if self._map is not None and begin < end and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def close(self) -> None:
        """See :meth:`WeightSource.close`."""
        self._map = None  # tensors that share the map keep it alive, so it is not closed by force

    def _entry(self, name: str) -> GGUFTensor:
        entry = self._tensors.get(name)
        if entry is None:
            raise missing_tensor(self._file, name, self.names())
        return entry

    def _block(self, entry: GGUFTensor) -> BlockFormat:
        """Return the entry's format, if it can be read."""
        if entry.block is not None and entry.block.expand is not None:
            return entry.block
        raise WeightsError(
            f"its format, {self.format(entry.name)}, cannot be read",
            field=f"{self._file}[{printable(entry.name)}]",
            remedy=f"Use a file in one of {', '.join(READABLE_FORMATS)}",
        )

    def _elements(self, entry: GGUFTensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return elements ``start … stop − 1`` of the flattened tensor, ``[stop − start]``."""
        assert dtype.is_floating_point
        block = self._block(entry)
        first = start // block.num_elements  # a vector's elements may be cut out of the middle of a block
        last = -(-stop // block.num_elements)
        stored = self._bytes(entry.offset + first * block.num_bytes, (last - first) * block.num_bytes)
        if _can_share(block, dtype, stored):
            return torch.from_numpy(stored).view(dtype)
        found = _converted(stored, block, dtype)
        skip = start - first * block.num_elements
        return found if len(found) == stop - start else found[skip : skip + stop - start].clone()

    def _bytes(self, offset: int, num_bytes: int) -> Bytes:
        """Return a view of the map, uint8 ``[num_bytes]``."""
        assert self._map is not None, "the file was closed"
        return np.frombuffer(self._map, dtype=np.uint8, count=num_bytes, offset=offset)


def _map(path: Path) -> mmap.mmap:
    """Map a whole file copy-on-write, so that results may share its pages and no write to a result reaches the file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError("this is no ordinary file", field=str(path), remedy="Give a .gguf file")
        if status.st_size == 0:
            raise WeightsError("the file is empty", field=str(path), remedy=DOWNLOAD_AGAIN)
        with path.open("rb") as file:
            return _map_private(file)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL, or a file emptied meanwhile
        if isinstance(error, WeightsError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        remedy = "Check the path and the permission to read it"
        raise WeightsError(f"the file cannot be read: {reason}", field=str(path), remedy=remedy) from error


def _map_private(file: BinaryIO) -> mmap.mmap:
    """Map copy-on-write, or read-only where the system will not promise that much memory for the copies."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _refuse_split(metadata: Mapping[str, GGUFValue], file: str) -> None:
    count = metadata.get(SPLIT_KEY, 1)
    if isinstance(count, int) and count > 1:
        remedy = "Merge the parts with llama-gguf-split --merge, and give the whole"
        raise WeightsError(f"the file is one of {count} parts of a model", field=f"{file}[{SPLIT_KEY}]", remedy=remedy)


def _can_share(block: BlockFormat, dtype: torch.dtype, stored: Bytes) -> bool:
    """Whether stored bytes can serve as a tensor of ``dtype`` where they lie."""
    same = _TORCH_DTYPES.get(block.name) == dtype and sys.byteorder == "little"
    return same and stored.flags.writeable and stored.ctypes.data % block.num_bytes == 0


def _converted(stored: Bytes, block: BlockFormat, dtype: torch.dtype) -> Tensor:
    """Return the numbers of whole blocks as a new vector of ``dtype``, by way of float32 a chunk at a time."""
    num_elements = len(stored) // block.num_bytes * block.num_elements
    out = torch.empty(num_elements, dtype=dtype)
    if dtype == torch.float32:
        dequantise(stored, block, out.numpy())
        return out
    scratch = np.empty(min(CHUNK_ELEMENTS, num_elements), dtype=np.float32)
    for first in range(0, num_elements, CHUNK_ELEMENTS):
        part = scratch[: num_elements - first]
        begin = first // block.num_elements * block.num_bytes
        dequantise(stored[begin : begin + len(part) // block.num_elements * block.num_bytes], block, part)
        out[first : first + len(part)] = torch.from_numpy(part)
    return out
