"""The paged KV cache that Triton kernels attend to where it lies, and a step's access to it: for CUDA.

The tensors are those of :class:`~steelyard.memory.paged_kv.PagedKVStore`, held by composition; only the step differs.

Sequences that compute one token go through the split form of :mod:`steelyard.kernels.triton.paged_attention`, all
others through the whole form, with block tables read by the kernels, so no key is gathered or copied and no mask is
made. Both forms give a query the same bits.

Import it only where :func:`steelyard.kernels.triton_available.triton_usable` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.triton.kv_write import rotate_and_write_kv, write_kv
from steelyard.kernels.triton.paged_attention import (
    TILE_FIELDS,
    PagedContext,
    attend_split,
    attend_whole,
    num_segments,
    queries_per_tile,
)
from steelyard.memory.paged_kv import KVShape, PagedKVStore

TileRow = tuple[int, int, int, int]
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class TileSet:
    """A step's query tiles for one tile size; see :mod:`steelyard.kernels.triton.paged_attention`.

    Attributes:
        single: int32 ``[sequences, 4]``, tiles of sequences that compute one token.
        max_segments: segments of the longest context among them, or more.
        many: int32 ``[tiles, 4]``, tiles of all others.
    """

    single: Tensor
    max_segments: int
    many: Tensor


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """One step's plan.

    Attributes:
        slots: int64 ``[tokens]``, where each packed token goes; ``NO_SLOT`` for padding.
        tables: int32 ``[sequences, blocks]``, zero past a sequence's blocks.
        tile_set: from queries per tile to the tiles.
    """

    slots: Tensor
    tables: Tensor
    tile_set: Callable[[int], TileSet]


class TritonKVStore:
    """Keys and values of ``num_blocks`` blocks in every layer; a :class:`~steelyard.memory.kv_store.KVStore`.

    Steps share nothing, so several may be alive at once.
    """

    def __init__(self, shape: KVShape, num_blocks: int, device: torch.device) -> None:
        self._cache = PagedKVStore(shape, num_blocks, device)
        self.shape, self.num_blocks, self.device = shape, num_blocks, device

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values themselves, ``[slots, num_kv_heads · head_dim]``, padding block last."""
        return self._cache.layer(layer)

    def read(self, layer: int, blocks: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return copies of a layer's keys and values; see :meth:`PagedKVStore.read`."""
        return self._cache.read(layer, blocks, num_keys)

    @property
    def block_format(self) -> str:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        return self._cache.block_format

    def copy_out(self, blocks: Sequence[int]) -> Tensor:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        return self._cache.copy_out(blocks)

    def copy_in(self, blocks: Sequence[int], content: Tensor) -> None:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        self._cache.copy_in(blocks, content)

    def step(self, works: Sequence[SequenceWork]) -> TritonStepKV:
        """Return the access of one step whose tokens are those of ``works``, packed in the order given."""
        return TritonStepKV(self, plan_tiles(works, self.shape.block_size, self.device))


class TritonStepKV:
    """A :class:`~steelyard.models.contract.KVAccess` for one step over a :class:`TritonKVStore`.

    Rows of ``q``, ``k`` and ``v`` past the plan's tokens are padding: they are neither stored nor attended, and their
    output is zero.
    """

    def __init__(self, store: TritonKVStore, plan: TritonPlan) -> None:
        self._store, self._plan = store, plan

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`; the whole step is written before any is read."""
        keys, values = self._store.layer(spec.layer)
        write_kv(_dense_heads(k), _dense_heads(v), self._plan.slots, keys, values)
        return self._attended(spec, _dense_heads(q), keys, values)

    def rotate_and_attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
        """Do as :meth:`attend` with queries and keys that are not rotated yet; ``q`` is changed in place.

        Args (besides those of :meth:`attend`):
            rotation: cos and signed sin, each ``[tokens, 1, dim]``.
        """
        keys, values = self._store.layer(spec.layer)
        cos, sin = (part.contiguous().view(len(part), -1) for part in rotation)
        q, k, v = _dense_heads(q), _dense_heads(k), _dense_heads(v)
        rotate_and_write_kv(q, k, v, cos, sin, self._plan.slots, keys, values)
        return self._attended(spec, q, keys, values)

    def _attended(self, spec: AttentionSpec, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
        tiles = self._plan.tile_set(queries_per_tile(spec))
        context = PagedContext(keys, values, self._store.shape.block_size, self._plan.tables)
        attend_whole(spec, q, context, tiles.many, out)
        attend_split(spec, q, context, tiles.single, out, tiles.max_segments)
        return out


def plan_tiles(works: Sequence[SequenceWork], block_size: int, device: torch.device) -> TritonPlan:
    """Return the plan for ``works``, packed in the order given."""
    tables = np.zeros((len(works), max((len(work.block_table) for work in works), default=0)), dtype=np.int32)
    for row, work in zip(tables, works, strict=True):
        row[: len(work.block_table)] = work.block_table
    slots = [_slots(work, row, block_size) for work, row in zip(works, tables, strict=True)]

    @cache
    def tile_set(num_queries: int) -> TileSet:
        return _tile_set(works, num_queries, device)

    return TritonPlan(
        torch.from_numpy(np.concatenate(slots) if slots else np.zeros(0, np.int64)).to(device),
        torch.from_numpy(tables).to(device),
        tile_set,
    )


def _dense_heads(x: Tensor) -> Tensor:
    """Return ``x`` with its heads side by side; a view of a fused projection's rows is so already."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _slots(work: SequenceWork, table: np.ndarray, block_size: int) -> np.ndarray:
    positions = np.arange(work.start, work.end)
    slots: np.ndarray = table[positions // block_size].astype(np.int64) * block_size + positions % block_size
    return slots


def _tile_set(works: Sequence[SequenceWork], num_queries: int, device: torch.device) -> TileSet:
    rows = np.cumsum([0, *(work.num_tokens for work in works)]).tolist()
    single = [(rows[i], 1, work.start, i) for i, work in enumerate(works) if work.num_tokens == 1]
    many = chain.from_iterable(
        _tiles(work, rows[i], i, num_queries) for i, work in enumerate(works) if work.num_tokens > 1
    )
    longest = max((position + 1 for _, _, position, _ in single), default=1)
    return TileSet(_as_tensor(single, device), num_segments(longest), _as_tensor(list(many), device))


def _tiles(work: SequenceWork, row: int, index: int, num_queries: int) -> list[TileRow]:
    return [
        (row + start, min(num_queries, work.num_tokens - start), work.start + start, index)
        for start in range(0, work.num_tokens, num_queries)
    ]


def _as_tensor(tiles: list[TileRow], device: torch.device) -> Tensor:
    return torch.tensor(tiles, dtype=torch.int32, device=device).view(-1, TILE_FIELDS)
