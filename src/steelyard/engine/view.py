"""How the engine shows itself: to policies before a step (:class:`EngineView`), to observers after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steelyard.core.kv import CachedPrefix
from steelyard.core.sequence import Sequence
from steelyard.engine.sequence_table import SequenceTable
from steelyard.memory.kv_manager import KVManager
from steelyard.policies.schedule.types import Schedule, ScheduleLimits, SequenceView


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as it happened, for observers: metrics, traces, and the comparison of two clocks.

    Attributes:
        step: number of the step, from 0.
        start_s: event-loop time before scheduling.
        end_s: event-loop time after the commit.
        schedule: what the policy decided.
        works: (sequence id, start, tokens) of every work item executed.
        sampled: ids of the sequences that got a token, those included that were cancelled meanwhile.
        num_running: sequences running after the commit.
        num_waiting: sequences waiting after the commit.
        num_free_blocks: KV blocks free after the commit.
    """

    step: int
    start_s: float
    end_s: float
    schedule: Schedule
    works: tuple[tuple[int, int, int], ...]
    sampled: tuple[int, ...]
    num_running: int
    num_waiting: int
    num_free_blocks: int


@dataclass(frozen=True, slots=True)
class ForeseenSequence:
    """A running sequence as policies see it while a step executes that will make it one token longer."""

    id: int
    num_tokens: int
    num_prompt_tokens: int
    num_computed_tokens: int
    priority: int
    arrival_s: float
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSequence:
    """A sequence that waits or runs, at one moment, for who looks on.

    Attributes:
        id: as in :class:`StepRecord`.
        running: whether it holds a seat; else it waits.
        arrival_s: event-loop time.
        num_prompt_tokens: of its prompt.
        num_tokens: prompt and output so far.
        num_computed_tokens: leading tokens whose KV is in the cache.
        num_blocks: KV blocks that it holds.
        num_preemptions: times that it lost them.
    """

    id: int
    running: bool
    arrival_s: float
    num_prompt_tokens: int
    num_tokens: int
    num_computed_tokens: int
    num_blocks: int
    num_preemptions: int


Observer = Callable[[StepRecord], None]


class EngineView:
    """The read-only face that policies see (:class:`~steelyard.policies.schedule.types.SchedulerView`)."""

    def __init__(self, table: SequenceTable, kv: KVManager, limits: ScheduleLimits) -> None:
        self._table, self._kv, self.limits = table, kv, limits
        self.now_s = 0.0
        self.sampling: frozenset[int] = frozenset()  # sequences that the step in flight will make longer

    @property
    def running(self) -> list[SequenceView]:
        """See the protocol."""
        return [_foreseen(s) if s.id in self.sampling else s for s in self._table.running]

    @property
    def waiting(self) -> list[Sequence]:
        """See the protocol."""
        return self._table.waiting

    @property
    def num_free_blocks(self) -> int:
        """See the protocol."""
        return self._kv.num_free_blocks

    def num_held_blocks(self, sequence_id: int) -> int:
        """See the protocol."""
        return self._kv.num_held_blocks(sequence_id)

    def num_releasable_blocks(self, *sequence_ids: int) -> int:
        """See the protocol."""
        return self._kv.num_releasable_blocks(*sequence_ids)

    def cached_prefix(self, sequence_id: int) -> CachedPrefix:
        """See the protocol."""
        return self._kv.peek_prefix(self._table[sequence_id])


def _foreseen(sequence: Sequence) -> ForeseenSequence:
    return ForeseenSequence(
        sequence.id,
        sequence.num_tokens + 1,
        sequence.num_prompt_tokens,
        sequence.num_computed_tokens,
        sequence.priority,
        sequence.arrival_s,
        sequence.tenant,
    )
