"""KV blocks that live sequences may come to: :class:`Promises`, kept up to date so that nobody counts anew."""

from __future__ import annotations


class Promises:
    """What each sequence may still need, at most, and the sum of it.

    Attributes:
        num_blocks: of all sequences together.
    """

    def __init__(self) -> None:
        self.num_blocks = 0
        self._by_sequence: dict[int, int] = {}

    def make(self, sequence_id: int, num_blocks: int) -> None:
        """Promise blocks to a sequence that has no promise yet."""
        assert sequence_id not in self._by_sequence
        self._by_sequence[sequence_id] = num_blocks
        self.num_blocks += num_blocks

    def drop(self, sequence_id: int) -> None:
        """Forget a sequence; one that is not known is ignored."""
        self.num_blocks -= self._by_sequence.pop(sequence_id, 0)
