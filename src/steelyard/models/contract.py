"""What every model promises, and the one thing it asks for: the contract between models, memory and executors.

A model computes packed tokens: all sequences of a step one after another, without padding, each token with its own
position. It knows nothing of batches, block tables, schedules or ranks. Where attention needs the past it hands its
queries, keys and values to a :class:`KVAccess`, which stores and attends in whatever way its memory is organised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from steelyard.kernels.attention import AttentionSpec as AttentionSpec
from steelyard.kernels.paged_attention import AttentionPlan


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


@runtime_checkable
class RotatingKV(KVAccess, Protocol):
    """A :class:`KVAccess` that can also rotate queries and keys on their way."""

    def rotate_and_attend(
        self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Do as :meth:`attend` with queries and keys that are not rotated yet; ``q`` may be changed in place.

        Args (besides those of :meth:`attend`):
            rotation: cos and signed sin, each ``[tokens, 1, dim]`` for the first ``dim`` elements of each head.
        """
        ...


@runtime_checkable
class PagedKVAccess(KVAccess, Protocol):
    """A :class:`KVAccess` whose cache native code can reach by itself."""

    @property
    def layer_addresses(self) -> Sequence[int]:
        """Address of each layer's blocks."""
        ...

    @property
    def max_context_len(self) -> int:
        """Keys of the longest sequence of the step, its own included: one more than the largest position."""
        ...

    def plan(self, num_heads: int) -> AttentionPlan:
        """Return the step's plan for layers with so many query heads."""
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
