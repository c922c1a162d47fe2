"""What memory and policies tell each other about the KV cache: plain values that both rooms may import."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """Blocks of one engine that hold tokens of another's sequence.

    Attributes:
        lender: whose blocks they are.
        borrower: who runs the sequence.
        sequence_id: whose tokens they hold; no two borrowers run the same one.
        num_blocks: at least one.
    """

    lender: str
    borrower: str
    sequence_id: int
    num_blocks: int
