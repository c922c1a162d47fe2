"""Causal attention of packed queries over padded keys, in PyTorch, and its plain reference.

The working form folds the query heads of a group (GQA) into rows of one matrix per key/value head, pads the rows to a
multiple of :data:`ROW_MULTIPLE`, and lets an additive mask say who sees whom. Callers pad the keys to a multiple of
:data:`KEY_MULTIPLE`. Padding is what makes a row's bits independent of how many rows and masked keys stand beside it:
the CPU's flash attention takes another path for fewer than four rows, and sums the keys past the last full vector in
another order. Masked scores are a large finite negative number, not −∞, so that a row whose first key
block is invisible (sliding window) stays finite; its weights underflow to exactly zero.

Not here: tiling masks and native kernels (S01), key/value quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.units import round_up

MASKED = -1e30
ROW_MULTIPLE = 4
KEY_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One layer's attention.

    Attributes:
        layer: index of the layer, 0-based; names its part of the KV cache.
        num_heads: query heads.
        num_kv_heads: key/value heads; ``num_heads`` is a multiple of it (GQA, MQA).
        head_dim: size of a query, key and value head.
        scale: factor on ``q·k``.
        window: a token sees itself and the ``window − 1`` tokens before it; ``None`` for all.
        softcap: scores become ``softcap · tanh(score / softcap)`` before the mask; ``None`` for none.
    """

    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None


def additive_mask(queries: Tensor, num_keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return 0 where a query may see a key and :data:`MASKED` where not.

    Args:
        queries: positions ``[batch, queries]``, int64.
        num_keys: keys stand at positions ``0 … num_keys − 1``.
        window: see :class:`AttentionSpec`.
        dtype: of the result; the masked value is clamped to its range.

    Returns:
        ``[batch, queries, num_keys]``.
    """
    key = torch.arange(num_keys, device=queries.device)
    seen = key <= queries[..., None]
    if window is not None:
        seen &= key > queries[..., None] - window
    masked = max(MASKED, torch.finfo(dtype).min / 4)
    return torch.where(seen, 0.0, masked).to(dtype)


def padded_attention(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend a batch of equally many queries to equally many (padded) keys.

    Args:
        spec: the layer's attention.
        q: ``[batch, queries, num_heads, head_dim]``.
        k: ``[batch, keys, num_kv_heads, head_dim]``; masked keys may hold anything finite.
        v: as ``k``.
        mask: ``[batch, queries, keys]`` from :func:`additive_mask`.

    Returns:
        ``[batch, queries, num_heads, head_dim]``.
    """
    batch, queries = q.shape[:2]
    group = spec.num_heads // spec.num_kv_heads
    rows = queries * group
    folded = q.view(batch, queries, spec.num_kv_heads, group, spec.head_dim).transpose(1, 2)
    folded = folded.reshape(batch, spec.num_kv_heads, rows, spec.head_dim)
    row_mask = mask.repeat_interleave(group, dim=1) if queries > 1 else mask
    if rows % ROW_MULTIPLE:
        padding = round_up(rows, ROW_MULTIPLE) - rows
        folded = F.pad(folded, (0, 0, 0, padding))
        row_mask = F.pad(row_mask, (0, 0, 0, padding)) if queries > 1 else row_mask
    attend = _sdpa if spec.softcap is None else _softcapped
    out = attend(spec, folded, k.transpose(1, 2), v.transpose(1, 2), row_mask[:, None])[:, :, :rows]
    out = out.reshape(batch, spec.num_kv_heads, queries, group, spec.head_dim).transpose(1, 2)
    return out.reshape(batch, queries, spec.num_heads, spec.head_dim)


def _sdpa(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=spec.scale)


def _softcapped(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    assert spec.softcap is not None
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(spec.scale / spec.softcap).tanh_().mul_(spec.softcap)
    weights = (scores + mask).float().softmax(dim=-1).to(v.dtype)
    return torch.matmul(weights, v)


def attention_reference(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend the last ``len(q)`` positions of one sequence to all of it, in the plainest way.

    Args:
        spec: the layer's attention.
        q: ``[queries, num_heads, head_dim]``.
        k: ``[context, num_kv_heads, head_dim]``, context ≥ queries.
        v: as ``k``.

    Returns:
        ``[queries, num_heads, head_dim]``.
    """
    group = spec.num_heads // spec.num_kv_heads
    keys = k.repeat_interleave(group, dim=1).transpose(0, 1)
    values = v.repeat_interleave(group, dim=1).transpose(0, 1)
    scores = torch.matmul(q.transpose(0, 1), keys.transpose(1, 2)) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    positions = torch.arange(len(k) - len(q), len(k), device=q.device)[None]
    visible = additive_mask(positions, len(k), spec.window, scores.dtype)[0] == 0
    scores = scores.masked_fill(~visible, float("-inf"))
    return torch.matmul(scores.softmax(dim=-1), values).transpose(0, 1)
