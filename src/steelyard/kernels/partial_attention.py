"""Attention of queries over a part of their keys, and the merging of parts: DistAttention (S34, arXiv:2401.02669).

Softmax over all keys is a weighted mean of softmaxes over any parts of them, weighted by each part's sum of
exponentials (online softmax, arXiv:1805.02867). So keys and values may lie with several engines: each attends the
queries it is sent to the keys it has and answers with a :class:`PartialAttention`, and :func:`merge` makes the whole
of them. Keys are named by their positions, so a part may be any set of blocks in any order.

Parts are float32 whatever the keys are (float64 for float64), so a merge rounds little. Its bits still depend on how
the keys were split and in which order parts are merged: callers that promise equal bits fix both. Not here: sending
parts anywhere, and native kernels; the compiled ones merge segments within one call
(:mod:`~steelyard.kernels.paged_attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.kernels.attention import AttentionSpec


@dataclass(frozen=True, slots=True, eq=False)
class PartialAttention:
    """What queries get of some of their keys.

    Attributes:
        out: ``[queries, num_heads, head_dim]``, the weighted mean of the values; 0 where a query sees none of the keys.
        lse: ``[queries, num_heads]``, logarithm of the sum of the scores' exponentials; −∞ where it sees none.
    """

    out: Tensor
    lse: Tensor


def attend_part(
    spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, *, query_positions: Tensor, key_positions: Tensor
) -> PartialAttention:
    """Attend queries to those of the given keys that they see: their own position and earlier ones, in the window.

    Args:
        spec: the layer's attention.
        q: ``[queries, num_heads, head_dim]``.
        k: ``[keys, num_kv_heads, head_dim]``, perhaps no keys at all.
        v: as ``k``.
        query_positions: ``[queries]`` int64, of the queries in their sequence.
        key_positions: ``[keys]`` int64, in any order.
    """
    exact = torch.float64 if q.dtype is torch.float64 else torch.float32
    group = spec.num_heads // spec.num_kv_heads
    queries = q.to(exact).reshape(len(q), spec.num_kv_heads, group, spec.head_dim)
    scores = torch.einsum("qhgd,khd->qhgk", queries, k.to(exact)) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    unseen = ~_visible(query_positions, key_positions, spec.window)
    scores = scores.masked_fill(unseen[:, None, None, :], float("-inf"))
    lse = scores.logsumexp(dim=-1)
    weights = torch.exp(scores - _finite(lse)[..., None])
    out = torch.einsum("qhgk,khd->qhgd", weights, v.to(exact))
    return PartialAttention(out.flatten(1, 2), lse.flatten(1, 2))


def merge(parts: Sequence[PartialAttention]) -> PartialAttention:
    """Return what the queries get of the keys of all parts together; parts share no key, and there is at least one.

    Summed in the order given.
    """
    lses = torch.stack([part.lse for part in parts])
    lse = lses.logsumexp(dim=0)
    weights = torch.exp(lses - _finite(lse))[..., None]
    out = weights[0] * parts[0].out
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        out = out + weight * part.out
    return PartialAttention(out, lse)


def _visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Return which keys each query sees, ``[queries, keys]``."""
    seen = keys <= queries[:, None]
    return seen if window is None else seen & (keys > queries[:, None] - window)


def _finite(lse: Tensor) -> Tensor:
    """Return ``lse`` with 0 for −∞: what is subtracted from scores that are all −∞ must not make NaN of them."""
    return torch.where(lse == float("-inf"), torch.zeros_like(lse), lse)
