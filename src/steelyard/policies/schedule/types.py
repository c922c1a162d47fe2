"""What a scheduling policy sees and what it decides.

A policy is a pure function of a :class:`SchedulerView`: it never sees torch, a clock or the KV cache itself. It answers
with a :class:`Schedule`; the engine carries it out. Reading the view changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.kv import CachedPrefix


class SequenceView(Protocol):
    """The read-only face of :class:`steelyard.core.sequence.Sequence`."""

    @property
    def id(self) -> int:
        """Unique, increasing with arrival."""

    @property
    def num_tokens(self) -> int:
        """Tokens known: prompt and output."""

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def num_computed_tokens(self) -> int:
        """Leading tokens whose KV is in the cache; 0 while waiting."""

    @property
    def priority(self) -> int:
        """Lower is sooner."""

    @property
    def arrival_s(self) -> float:
        """When it came, seconds."""

    @property
    def tenant(self) -> str:
        """Who is charged for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """What one step may hold.

    Attributes:
        max_num_seqs: sequences running at once.
        max_num_batched_tokens: tokens computed in one step; longer prompts are computed in chunks.
        block_size: tokens per KV block.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int


class SchedulerView(Protocol):
    """The engine's state at the start of a step."""

    @property
    def now_s(self) -> float:
        """Time of the step, on the same clock as ``arrival_s``."""

    @property
    def limits(self) -> ScheduleLimits:
        """What one step may hold."""

    @property
    def running(self) -> Sequence[SequenceView]:
        """Sequences that hold KV blocks, in the order of their admission."""

    @property
    def waiting(self) -> Sequence[SequenceView]:
        """Sequences that hold none, in the order of arrival (preempted ones first)."""

    @property
    def num_free_blocks(self) -> int:
        """KV blocks that can be handed out, idle cached ones included."""

    def num_held_blocks(self, sequence_id: int) -> int:
        """Return the KV blocks in the block table of a running sequence."""

    def num_releasable_blocks(self, *sequence_ids: int) -> int:
        """Return the KV blocks that preempting these running sequences together would free.

        Those that nobody else references: blocks that only the given ones share count, so the number for several
        can exceed the sum of the numbers for each.
        """

    def cached_prefix(self, sequence_id: int) -> CachedPrefix:
        """Return what the prefix cache holds of a waiting sequence."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Compute up to ``num_tokens`` further tokens of a sequence in this step (the engine stops at its last known one).

    For a waiting sequence a grant means admission; cached prefix tokens are not counted in ``num_tokens``.
    """

    sequence_id: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The decision for one step: first preempt, then grant, both in this order."""

    preempt: tuple[int, ...] = ()
    grants: tuple[Grant, ...] = ()


class SchedulePolicy(Protocol):
    """Decides what one step computes."""

    def __call__(self, view: SchedulerView) -> Schedule:
        """Return the step's schedule.

        The total of granted tokens stays within ``max_num_batched_tokens``, sequences left running within
        ``max_num_seqs``, and blocks needed within ``num_free_blocks`` plus those that the preemptions release. If
        anything can run to its end in this cache, something is granted: an empty schedule while sequences remain means
        that the first of them, alone, is larger than the whole cache.
        """
