"""Attention without a cache: whole sequences at once, the plain form that everything else is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from steelyard.models.contract import AttentionSpec


class DenseKV:
    """A :class:`~steelyard.models.contract.KVAccess` for packed whole sequences; nothing outlives the call.

    Args:
        lengths: tokens of each packed sequence, in order; their sum is the packed length.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._lengths = list(lengths)

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`; every sequence starts at position 0."""
        parts = zip(*(torch.split(x, self._lengths) for x in (q, k, v)), strict=True)
        return torch.cat([dense_attention(spec, *part) for part in parts])


def dense_attention(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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
    scores = scores.masked_fill(~visible(len(q), len(k), spec.window, q.device), float("-inf"))
    return torch.matmul(scores.softmax(dim=-1), values).transpose(0, 1)


def visible(num_queries: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """Return ``[num_queries, context]`` bool: which keys each of the last ``num_queries`` positions may see."""
    query = torch.arange(context - num_queries, context, device=device)[:, None]
    key = torch.arange(context, device=device)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)
