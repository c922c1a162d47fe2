"""What every KV store promises, and which one serves a model.

Three stores exist: :class:`~steelyard.memory.native_kv.NativeKVStore`, whose compiled kernels attend to the cache where
it lies; ``triton_kv.TritonKVStore``, whose Triton kernels do so on CUDA; and
:class:`~steelyard.memory.paged_kv.PagedKVStore`, which gathers it for PyTorch, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.paged_attention import native_layout_exists
from steelyard.kernels.triton_available import triton_serves
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape, PagedKVStore


class StepKV(Protocol):
    """One step's access to a store: a :class:`~steelyard.models.contract.KVAccess`."""

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`."""


class KVStore(Protocol):
    """Keys and values of ``num_blocks`` blocks in every layer."""

    @property
    def shape(self) -> KVShape:
        """Of the cache."""

    @property
    def num_blocks(self) -> int:
        """Blocks that may be written."""

    @property
    def device(self) -> torch.device:
        """Where it lives."""

    @property
    def block_format(self) -> str:
        """How a block's bytes lie; blocks may be copied between stores of the same."""

    def copy_out(self, blocks: Sequence[int]) -> Tensor:
        """Return a copy of what blocks hold in all layers, ``[blocks, bytes]`` uint8 on the CPU."""

    def copy_in(self, blocks: Sequence[int], content: Tensor) -> None:
        """Let blocks hold ``content``, as :meth:`copy_out` of a store of this format returned it."""

    def step(self, works: Sequence[SequenceWork]) -> StepKV:
        """Return the access of one step whose tokens are those of ``works``, packed in the order given.

        A store serves one step at a time: the access is good until the next is made.
        """


def native_store_fits(device: torch.device, num_kv_heads: int, head_dim: int, block_size: int) -> bool:
    """Return whether a :class:`NativeKVStore` can hold such a cache here."""
    return device.type == "cpu" and native_layout_exists(num_kv_heads, head_dim, block_size)


def make_kv_store(shape: KVShape, num_blocks: int, device: torch.device) -> KVStore:
    """Return the best store for such a cache on ``device``, empty."""
    if native_store_fits(device, shape.num_kv_heads, shape.head_dim, shape.block_size):
        return NativeKVStore(shape, num_blocks)
    if triton_serves(device):
        return cast(KVStore, import_module("steelyard.memory.triton_kv").TritonKVStore(shape, num_blocks, device))
    return PagedKVStore(shape, num_blocks, device)
