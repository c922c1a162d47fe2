"""Native causal attention over a paged KV cache, without gathering it, and a plain reference that reads the same bytes.

The kernels (``csrc/attention``) visit keys in blocks at fixed positions of their sequence and merge fixed segments in
order (online softmax, FlashAttention, arXiv:2205.14135; two levels of tiles and a mask that only ever covers a row of
one block, S01 FastAttention), so a query's bits depend on its own row and its own past alone.

``csrc/attention/kv_layout.hpp`` tells how a block lies in memory. Element types are float32, float16, bfloat16 and int8
with one float32 scale per token and head; arithmetic is float32 except where :func:`paged_attention` says so. Not here:
which block belongs to whom (:mod:`steelyard.memory`), devices other than the CPU.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.kernels.native import (
    NativeAttentionPlan,
    NativeKernels,
    NativeKVLayout,
    NativeThreadPool,
    native_kernels,
)
from steelyard.kernels.threads import thread_pool

KEY_GROUP = 16
MAX_HEAD_DIM = 256
KV_TYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.int8: "int8"}


def native_layout_exists(num_kv_heads: int, head_dim: int, block_size: int) -> bool:
    """Return whether the compiled kernels are there and know such a cache."""
    fits = num_kv_heads > 0 and head_dim % KEY_GROUP == 0 and 0 < head_dim <= MAX_HEAD_DIM
    return fits and block_size > 0 and block_size % KEY_GROUP == 0 and native_kernels() is not None


def multiplies_bfloat16() -> bool:
    """Return whether the compiled kernels multiply pairs of bfloat16 on this CPU, instead of converting them."""
    native = native_kernels()
    return native is not None and "avx512_bf16" in native.isas()


@dataclass(frozen=True, slots=True)
class StepSequences:
    """A step's sequences as the kernels take them, packed one after another.

    Attributes:
        query_starts: ``[sequences + 1]`` packed rows.
        context_lens: ``[sequences]`` keys in the cache once the step's own are written.
        table_starts: ``[sequences + 1]`` into ``blocks``.
        blocks: the block tables one after another.
    """

    query_starts: array[int]
    context_lens: array[int]
    table_starts: array[int]
    blocks: array[int]

    @classmethod
    def of(
        cls, num_queries: Sequence[int], context_lens: Sequence[int], tables: Sequence[Sequence[int]]
    ) -> StepSequences:
        """Return the sequences with so many queries, so many keys and these block tables each."""
        starts, table_starts, blocks = array("i", (0,)), array("i", (0,)), array("i")
        for count, table in zip(num_queries, tables, strict=True):
            starts.append(starts[-1] + count)
            blocks.extend(table)
            table_starts.append(len(blocks))
        return cls(starts, array("i", context_lens), table_starts, blocks)


class PagedLayout:
    """How a cache lies in memory: block after block, and in a block layer after layer.

    Args:
        dtype: of the elements; one of :data:`KV_TYPES`.
        num_kv_heads: key/value heads.
        head_dim: a multiple of 16, at most 256.
        block_size: tokens per block, a multiple of 16.
        num_layers: that have a part in each block.
    """

    def __init__(
        self, dtype: torch.dtype, num_kv_heads: int, head_dim: int, block_size: int, num_layers: int = 1
    ) -> None:
        self.dtype, self.num_kv_heads, self.head_dim, self.block_size = dtype, num_kv_heads, head_dim, block_size
        self.num_layers = num_layers
        self.native: NativeKVLayout = _native().make_kv_layout(
            KV_TYPES[dtype], num_kv_heads, head_dim, block_size, num_layers
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in one layer, scales included."""
        return self.native.block_bytes

    def decode(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values in plain order, ``[blocks, block_size, kv_heads, head_dim]`` float32.

        Args:
            cache: ``[blocks, block_bytes]`` uint8.
        """
        heads = cache.reshape(len(cache), self.num_kv_heads, self.native.head_bytes)
        values, scales = self.native.values_bytes, self.native.scales_bytes
        k, v = (self._groups(part) for part in (heads[..., :values], heads[..., values:scales]))
        together = {torch.bfloat16: 2, torch.int8: 4}.get(self.dtype, 1)  # elements, and tokens, that are interleaved
        k = k.view(*k.shape[:3], self.head_dim // together, KEY_GROUP, together).transpose(-1, -2)
        v = v.view(*v.shape[:3], KEY_GROUP // together, self.head_dim, together).transpose(-1, -2)
        k = k.reshape(*k.shape[:3], self.head_dim, KEY_GROUP).transpose(-1, -2)
        plain = (*heads.shape[:2], self.block_size, self.head_dim)
        k, v = k.reshape(plain).float(), v.reshape(plain).float()
        if self.dtype is torch.int8:
            factors = heads[..., scales:].contiguous().view(torch.float32)[..., None]
            k, v = k * factors[:, :, : self.block_size], v * factors[:, :, self.block_size : 2 * self.block_size]
        return k.transpose(1, 2), v.transpose(1, 2)

    def _groups(self, part: Tensor) -> Tensor:
        """Return elements ``[blocks, kv_heads, groups, 16 · head_dim]`` of bytes ``[blocks, kv_heads, bytes]``."""
        return part.contiguous().view(self.dtype).view(*part.shape[:2], -1, KEY_GROUP * self.head_dim)


class AttentionPlan:
    """Who attends to what in a step, for all its layers; building it anew reuses its memory.

    Args:
        layout: of the caches it will be used with.
        num_blocks: of those caches.
    """

    def __init__(self, layout: PagedLayout, num_blocks: int) -> None:
        self.layout, self.num_blocks = layout, num_blocks
        self.native: NativeAttentionPlan = _native().AttentionPlan()

    def build(self, sequences: StepSequences, num_heads: int, pool: NativeThreadPool) -> None:
        """Plan a step of layers with ``num_heads`` query heads for the workers of ``pool``.

        Raises:
            ValueError: if a sequence has more queries than keys or more keys than its blocks hold, or names a block
                that does not exist.
        """
        self.native.build(
            self.layout.native,
            num_heads,
            query_starts=sequences.query_starts.buffer_info()[0],
            context_lens=sequences.context_lens.buffer_info()[0],
            table_starts=sequences.table_starts.buffer_info()[0],
            blocks=sequences.blocks.buffer_info()[0],
            num_sequences=len(sequences.context_lens),
            num_blocks=self.num_blocks,
            num_workers=pool.num_workers,
        )

    @property
    def num_tokens(self) -> int:
        """Packed tokens of the step."""
        return self.native.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """What happens to queries and keys before they are used.

    Attributes:
        cos: ``[tokens, rotary_dim]`` float32 contiguous, ``None`` for no rotation.
        sin: as ``cos``, the first half negated.
        q_norm: weight ``[head_dim]`` of an RMS norm over each query head before the rotation; ``None`` for none.
        k_norm: the same of the keys.
        eps: of the norms.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 0.0


def rope_write_kv(
    plan: AttentionPlan, cache: Tensor, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, isa: str | None = None
) -> None:
    """Norm and rotate ``q`` in place, and put ``k``, normed and rotated, and ``v`` at the step's slots of ``cache``.

    Args:
        plan: of the step.
        cache: one layer's blocks ``[num_blocks, block_bytes]`` uint8; float16 saturates, int8 rounds to nearest even.
        q: ``[tokens, num_heads, head_dim]`` float32, heads dense.
        k: ``[tokens, num_kv_heads, head_dim]`` float32, heads dense; not changed.
        v: as ``k``.
        rotary: what to do to queries and keys.
        isa: instruction set, the widest if left out.
    """
    _check(plan, cache, q, k, v)
    cos, sin, q_norm, k_norm = (_address(part) for part in (rotary.cos, rotary.sin, rotary.q_norm, rotary.k_norm))
    rotary_dim = 0 if rotary.cos is None else rotary.cos.shape[-1]
    _native().rope_write_kv(
        thread_pool(), plan.native, plan.layout.native, cache.data_ptr(), q.data_ptr(), q.stride(0), k.data_ptr(),
        k.stride(0), v.data_ptr(), v.stride(0), cos, sin, rotary_dim, q_norm, k_norm, rotary.eps, isa,
    )  # fmt: skip


def paged_attention(
    plan: AttentionPlan,
    spec: AttentionSpec,
    cache: Tensor,
    q: Tensor,
    *,
    isa: str | None = None,
    pool: NativeThreadPool | None = None,
) -> Tensor:
    """Attend the step's queries to ``cache``, which holds the step's own keys and values already.

    Returns:
        ``[tokens, num_heads, head_dim]`` float32, a new tensor.
    """
    _check(plan, cache, q)
    out = torch.empty(plan.num_tokens, spec.num_heads, spec.head_dim)
    _native().paged_attention(
        pool or thread_pool(), plan.native, plan.layout.native, cache.data_ptr(), q.data_ptr(), q.stride(0),
        out.data_ptr(), spec.num_heads * spec.head_dim, spec.scale, spec.window or 0, spec.softcap or 0.0, isa,
    )  # fmt: skip
    return out


def write_and_attend(
    plan: AttentionPlan, spec: AttentionSpec, cache: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor
) -> None:
    """Put ``k`` and ``v`` into ``cache`` as they are and attend into ``out``: :func:`paged_attention` after a write.

    All tensors are float32 ``[tokens or more, heads, head_dim]`` with dense heads; rows past the plan's are left alone.
    """
    _check(plan, cache, q, k, v, out)
    _native().write_and_attend(
        thread_pool(), plan.native, plan.layout.native, cache.data_ptr(), q.data_ptr(), q.stride(0), k.data_ptr(),
        k.stride(0), v.data_ptr(), v.stride(0), out.data_ptr(), out.stride(0), spec.scale, spec.window or 0,
        spec.softcap or 0.0, None,
    )  # fmt: skip


def paged_attention_reference(
    spec: AttentionSpec, layout: PagedLayout, cache: Tensor, q: Tensor, sequences: StepSequences
) -> Tensor:
    """Return what :func:`paged_attention` does in the plainest way, in the dtype of ``q``: pass float64 to judge it."""
    keys, values = (part.to(q.dtype) for part in layout.decode(cache))
    parts = [q.new_empty(0, spec.num_heads, spec.head_dim)]
    for i, context in enumerate(sequences.context_lens):
        rows = q[sequences.query_starts[i] : sequences.query_starts[i + 1]]
        blocks = list(sequences.blocks[sequences.table_starts[i] : sequences.table_starts[i + 1]])
        k, v = (part[blocks].flatten(0, 1)[:context] for part in (keys, values))
        if len(rows):
            parts.append(attention_reference(spec, rows, k, v))
    return torch.cat(parts)


def dense_heads(x: Tensor) -> bool:
    """Return whether the heads of each token of ``x`` ``[tokens, heads, head_dim]`` lie one after another."""
    return x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2])


def _native() -> NativeKernels:
    native = native_kernels()
    assert native is not None, "ask native_layout_exists() first"
    return native


def _address(tensor: Tensor | None) -> int:
    if tensor is None:
        return 0
    assert tensor.dtype is torch.float32
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _check(plan: AttentionPlan, cache: Tensor, *packed: Tensor) -> None:
    """Make sure that the kernels may read these addresses."""
    assert cache.dtype is torch.uint8
    assert cache.shape == (plan.num_blocks, plan.layout.block_bytes)
    assert cache.stride() == (plan.layout.num_layers * plan.layout.block_bytes, 1)
    for tensor in packed:
        assert tensor.dtype is torch.float32
        assert tensor.is_cpu
        assert len(tensor) >= plan.num_tokens
        assert tensor.shape[2] == plan.layout.head_dim
        assert dense_heads(tensor)
