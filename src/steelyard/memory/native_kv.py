"""The paged KV cache that compiled kernels attend to where it lies, and a step's access to it.

The faces are those of :mod:`steelyard.memory.paged_kv`. A model whose tensors are not float32 is served too: queries,
keys and values are converted on their way in, results on their way out.

A kernel that computes a whole step needs no tensors from here, only addresses: :meth:`NativeKVStore.layer_address` for
each layer's blocks, :attr:`NativeKVStore.layout`, and of the step :attr:`NativeStepKV.plan`, whose C++ object
(``csrc/attention/attention_plan.hpp``) holds slots, positions, block tables and the cut into work items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.huge_pages import zeroed_huge_pages
from steelyard.kernels.paged_attention import AttentionPlan, PagedLayout, StepSequences, dense_heads, write_and_attend
from steelyard.kernels.threads import thread_pool
from steelyard.memory.paged_kv import KVShape


class NativeKVStore:
    """Keys and values of ``num_blocks`` blocks in every layer, in the kernels' layout, on the CPU.

    Memory is zeroed by the operating system on first touch, a huge page at a time, so resident memory follows use. The
    layers of a block are neighbours: a short context touches few pages.
    """

    device = torch.device("cpu")

    def __init__(self, shape: KVShape, num_blocks: int) -> None:
        self.shape, self.num_blocks = shape, num_blocks
        self.layout = PagedLayout(
            shape.dtype, shape.num_kv_heads, shape.head_dim, shape.block_size, num_layers=shape.num_layers
        )
        sizes = (num_blocks, shape.num_layers, self.layout.block_bytes)
        self._memory = zeroed_huge_pages(math.prod(sizes)).view(sizes)
        self._plan = AttentionPlan(self.layout, num_blocks)
        self.layer_addresses = tuple(self.layer_address(index) for index in range(shape.num_layers))

    def layer(self, index: int) -> Tensor:
        """Return one layer's part of all blocks, ``[num_blocks, block_bytes]`` uint8, strided over the other layers."""
        return self._memory[:, index]

    def layer_address(self, index: int) -> int:
        """Return the address of one layer's part of the first block; it stays as long as the store."""
        return self.layer(index).data_ptr()

    @property
    def block_format(self) -> str:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        return f"native {self.shape}, {self.layout.block_bytes} bytes a layer"

    def copy_out(self, blocks: Sequence[int]) -> Tensor:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        return self._memory[list(blocks)].flatten(1)

    def copy_in(self, blocks: Sequence[int], content: Tensor) -> None:
        """See :class:`~steelyard.memory.kv_store.KVStore`."""
        self._memory[list(blocks)] = content.view(-1, *self._memory.shape[1:])

    def step(self, works: Sequence[SequenceWork]) -> NativeStepKV:
        """Return the access of one step; it is good until the next is made, as both plan in the same memory."""
        counts = [work.num_tokens for work in works]
        sequences = StepSequences.of(counts, [work.end for work in works], [work.block_table for work in works])
        return NativeStepKV(self, self._plan, sequences)

    def read(self, layer: int, blocks: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """Return copies of a layer's keys and values, each ``[batch, num_keys, num_kv_heads, head_dim]`` float32.

        Args:
            layer: the layer.
            blocks: ``[batch · num_keys / block_size]`` block numbers.
            num_keys: keys per sequence, a multiple of the block size.
        """
        keys, values = self.layout.decode(self.layer(layer)[blocks])
        view = (-1, num_keys, self.shape.num_kv_heads, self.shape.head_dim)
        return keys.reshape(view), values.reshape(view)


class NativeStepKV:
    """A :class:`~steelyard.models.contract.KVAccess` for one step over a :class:`NativeKVStore`.

    Rows of ``q``, ``k`` and ``v`` past the step's tokens are padding: they are neither stored nor attended, and their
    output is zero.
    """

    def __init__(self, store: NativeKVStore, plan: AttentionPlan, sequences: StepSequences) -> None:
        self._store, self._plan, self._sequences = store, plan, sequences
        self._planned_heads: int | None = None

    def plan(self, num_heads: int) -> AttentionPlan:
        """Return the step's plan for layers with so many query heads; made once, as layers are mostly alike."""
        if num_heads != self._planned_heads:
            self._plan.build(self._sequences, num_heads, thread_pool())
            self._planned_heads = num_heads
        return self._plan

    @property
    def max_context_len(self) -> int:
        """Keys of the longest sequence of the step, its own included."""
        return max(self._sequences.context_lens, default=0)

    @property
    def layer_addresses(self) -> tuple[int, ...]:
        """Address of each layer's blocks."""
        return self._store.layer_addresses

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`.

        The whole step is written before any of it is read, so sequences of one step may share blocks that the same
        step fills.
        """
        plan = self.plan(spec.num_heads)
        out = torch.empty(q.shape, dtype=torch.float32)
        out[plan.num_tokens :] = 0
        write_and_attend(plan, spec, self._store.layer(spec.layer), _float32(q), _float32(k), _float32(v), out)
        return out.to(q.dtype)


def _float32(x: Tensor) -> Tensor:
    """Return ``x`` ``[tokens, heads, head_dim]`` as float32 with dense heads, itself if it is that already."""
    x = x.float()
    return x if dense_heads(x) else x.contiguous()
