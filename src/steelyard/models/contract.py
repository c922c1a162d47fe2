"""What every model promises, and the one thing it asks for: the contract between models, memory and executors.

A model computes packed tokens: all sequences of a step one after another, without padding, each token with its own
position. It knows nothing of batches, block tables, schedules or ranks. Where attention needs the past it hands its
queries, keys and values to a :class:`KVAccess`, which stores and attends in whatever way its memory is organised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


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


class KVAccess(Protocol):
    """Attention over the past, for the packed tokens of one step."""

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store ``k`` and ``v``, then attend causally, each sequence to itself.

        Args:
            spec: the layer's attention.
            q: ``[tokens, num_heads, head_dim]``, rotated already.
            k: ``[tokens, num_kv_heads, head_dim]``, rotated already.
            v: ``[tokens, num_kv_heads, head_dim]``.

        Returns:
            ``[tokens, num_heads, head_dim]``, dtype of ``q``.
        """
        ...


class LanguageModel(Protocol):
    """A decoder-only language model in evaluation form."""

    def __call__(self, token_ids: Tensor, positions: Tensor, kv: KVAccess) -> Tensor:
        """Return the hidden states after the final norm.

        Args:
            token_ids: ``[tokens]`` int64, packed.
            positions: ``[tokens]`` int64, each token's position in its own sequence.
            kv: attention over the past.

        Returns:
            ``[tokens, hidden_size]``.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return ``[rows, vocab_size]`` float32 logits of ``hidden`` ``[rows, hidden_size]``, soft-capping included."""
        ...
