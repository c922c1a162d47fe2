"""The sequences that live in an engine, waiting or running: the only place that moves them between the two."""

from __future__ import annotations

from steelyard.core.sequence import Sequence, SequenceStatus


class SequenceTable:
    """Waiting and running sequences in order.

    Attributes:
        waiting: without KV blocks, in the order of arrival, preempted ones first.
        running: with KV blocks, in the order of admission.
    """

    def __init__(self) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._by_id: dict[int, Sequence] = {}

    def __getitem__(self, sequence_id: int) -> Sequence:
        return self._by_id[sequence_id]

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence behind the waiting ones."""
        assert sequence.status is SequenceStatus.WAITING
        assert sequence.id not in self._by_id
        self._by_id[sequence.id] = sequence
        self.waiting.append(sequence)

    def start(self, sequence: Sequence) -> None:
        """Move a waiting sequence to the end of the running ones."""
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.status = SequenceStatus.RUNNING

    def preempt(self, sequence: Sequence) -> None:
        """Move a running sequence to the front of the waiting ones; its KV must be computed again."""
        self.running.remove(sequence)
        self.waiting.insert(0, sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed_tokens = 0
        sequence.num_preemptions += 1

    def finish(self, sequence: Sequence) -> None:
        """Remove a sequence, wherever it is."""
        (self.running if sequence.status is SequenceStatus.RUNNING else self.waiting).remove(sequence)
        del self._by_id[sequence.id]
        sequence.status = SequenceStatus.FINISHED

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` if a sequence is lost, doubled or in the wrong list."""
        ids = [s.id for s in self.waiting + self.running]
        assert sorted(ids) == sorted(self._by_id), "a sequence is lost or stands twice"
        assert all(s.status is SequenceStatus.WAITING and s.num_computed_tokens == 0 for s in self.waiting)
        assert all(s.status is SequenceStatus.RUNNING for s in self.running)
        assert all(s.num_computed_tokens < s.num_tokens for s in self.running), "a running sequence has no work left"
