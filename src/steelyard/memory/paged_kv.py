"""The paged KV cache's tensors, and a step's view of them that models attend through.

Which block belongs to whom is :mod:`steelyard.memory.kv_manager`'s business; here are only bytes. Other backends
(virtual-memory contiguous, swapped, distributed) are other classes with the same two faces: a store that lives as long
as the engine, and a :class:`~steelyard.models.contract.KVAccess` per step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.kernels.attention import AttentionSpec, padded_attention
from steelyard.memory.step_plan import AttentionGroup, StepPlan, plan_step


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """Shape of the cache of a model whose layers are alike.

    Attributes:
        num_layers: layers that hold keys and values.
        num_kv_heads: key/value heads per layer.
        head_dim: size of a head.
        block_size: tokens per block.
        dtype: element type; int8 has a float32 scale beside it, per token and head, for keys and for values.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values."""
        scale_bytes = torch.float32.itemsize if self.dtype is torch.int8 else 0
        per_head = self.head_dim * self.dtype.itemsize + scale_bytes
        return 2 * self.num_layers * self.num_kv_heads * per_head * self.block_size


class PagedKVStore:
    """Keys and values of ``num_blocks`` blocks in every layer.

    Memory is zeroed by the operating system on first touch, so resident memory follows use. One extra block,
    ``padding_block``, is never written and pads shorter contexts.
    """

    def __init__(self, shape: KVShape, num_blocks: int, device: torch.device) -> None:
        size = (shape.num_layers, num_blocks + 1, shape.block_size * shape.num_kv_heads * shape.head_dim)
        self.shape, self.num_blocks, self.padding_block, self.device = shape, num_blocks, num_blocks, device
        self._keys = _zeros(size, shape.dtype, device).unbind(0)
        self._values = _zeros(size, shape.dtype, device).unbind(0)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values themselves, ``[slots, num_kv_heads · head_dim]``, padding block last."""
        width = self.shape.num_kv_heads * self.shape.head_dim
        return self._keys[layer].view(-1, width), self._values[layer].view(-1, width)

    @property
    def block_format(self) -> str:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        return f"paged {self.shape}"

    def copy_out(self, blocks: Sequence[int]) -> Tensor:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        parts = torch.stack([part[list(blocks)] for part in (*self._keys, *self._values)], dim=1)
        return parts.cpu().flatten(1).view(torch.uint8)

    def copy_in(self, blocks: Sequence[int], content: Tensor) -> None:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        layers = (*self._keys, *self._values)
        sizes = (len(blocks), len(layers), layers[0].shape[1])
        parts = content.contiguous().view(self.shape.dtype).view(sizes).to(self.device)
        for layer, part in zip(layers, parts.unbind(1), strict=True):
            layer[list(blocks)] = part

    def step(self, works: Sequence[SequenceWork]) -> PagedStepKV:
        """Return the access of one step whose tokens are those of ``works``, packed in the order given."""
        return PagedStepKV(self, plan_step(works, self.shape.block_size, self.padding_block, self.device))

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store ``k`` and ``v`` ``[tokens, num_kv_heads, head_dim]`` of one layer at ``slots`` ``[tokens]``."""
        keys, values = self.layer(layer)
        keys.index_copy_(0, slots, k.reshape(-1, keys.shape[1]))
        values.index_copy_(0, slots, v.reshape(-1, keys.shape[1]))

    def read(self, layer: int, blocks: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return copies of a layer's keys and values, each ``[batch, num_keys, num_kv_heads, head_dim]``.

        Args:
            layer: the layer.
            blocks: ``[batch · num_keys / block_size]`` block numbers.
            num_keys: keys per sequence, a multiple of the block size.
        """
        view = (-1, num_keys, self.shape.num_kv_heads, self.shape.head_dim)
        return (
            self._keys[layer].index_select(0, blocks).view(view),
            self._values[layer].index_select(0, blocks).view(view),
        )


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on the CPU from pages that exist only once touched, where ``torch.zeros`` would write them all."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    pages = np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(size)


class PagedStepKV:
    """A :class:`~steelyard.models.contract.KVAccess` for one step over a :class:`PagedKVStore`.

    Rows of ``q``, ``k`` and ``v`` past the plan's tokens are padding: they are neither stored nor attended, and their
    output is zero.
    """

    def __init__(self, store: PagedKVStore, plan: StepPlan) -> None:
        self._store, self._plan = store, plan

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`.

        The whole step is written before any of it is read, so sequences of one step may share blocks that the same
        step fills.
        """
        num_tokens = len(self._plan.slots)
        self._store.write(spec.layer, self._plan.slots, k[:num_tokens], v[:num_tokens])
        out = torch.zeros_like(q)
        for group in self._plan.groups:
            out[group.rows] = self._attend_group(spec, group, q)
        return out

    def _attend_group(self, spec: AttentionSpec, group: AttentionGroup, q: Tensor) -> Tensor:
        batch, queries = group.positions.shape
        keys, values = self._store.read(spec.layer, group.blocks, group.num_keys)
        tiles = q[group.rows].view(batch, queries, spec.num_heads, spec.head_dim)
        out = padded_attention(spec, tiles, keys, values, group.mask(spec.window, q.dtype))
        return out.view(-1, spec.num_heads, spec.head_dim)
