"""What memory tells the scheduler about the KV cache: plain values that both rooms may import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """What the prefix cache holds of a waiting sequence.

    Attributes:
        num_tokens: leading tokens that need no computing, whole blocks; always fewer than the sequence has.
        num_idle_blocks: blocks of that prefix that nobody references now; taking them uses up that many free blocks.
    """

    num_tokens: int = 0
    num_idle_blocks: int = 0
