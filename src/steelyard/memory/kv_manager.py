"""The bookkeeping of a paged KV cache with automatic prefix caching: who holds which block, and what can be shared.

Tensors live elsewhere: this module is plain Python and only names blocks. The life of a sequence here is
``admit → grow, once per step → release``, again after each preemption, and ``forget`` at its end.

Three rules keep shared blocks right without copying:

- Only full blocks are shared, and a sequence computes positions from ``num_computed_tokens`` on, which lie behind every
  block it shares. So a full block that others can see is never written again.
- A block is published when the step that fills it is *planned*. A sequence admitted later in the same step may already
  share it, because an executor writes all KV of a step in a layer before it attends in that layer. If the step then
  fails, its blocks hold nothing: release everything and :meth:`KVManager.reset_prefix_cache`.
- Blocks are freed last one first, so that eviction shortens cached prefixes from their tails.

Left out: sliding windows (blocks behind the window stay), swapping to other tiers, speculated tokens that are rejected
(they may have their blocks, but only known tokens are published).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.kv import CachedPrefix
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.memory.block_pool import BlockPool
from steelyard.memory.prefix_cache import DigestChains, PrefixCache


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheConfig:
    """Size and habits of a KV cache.

    Attributes:
        num_blocks: blocks in the pool.
        block_size: tokens per block.
        enable_prefix_caching: share the blocks of equal prefixes.

    Raises:
        ParamsError: if a size is not positive.
    """

    num_blocks: int
    block_size: int
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size"):
            if getattr(self, name) < 1:
                problem = f"{getattr(self, name)} is not a positive number"
                raise ParamsError(problem, field=name, remedy="Give at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVUsage:
    """How a KV cache is used at one moment; the three kinds of blocks add up to ``num_blocks``.

    Attributes:
        num_blocks: blocks in the pool.
        num_referenced_blocks: blocks in at least one block table.
        num_idle_blocks: unreferenced blocks that hold a cached prefix.
        num_empty_blocks: unreferenced blocks that hold nothing.
        num_hit_tokens: tokens found in the prefix cache by all admissions so far, readmissions included.
        num_miss_tokens: tokens that admitted sequences knew and did not find.
    """

    num_blocks: int
    num_referenced_blocks: int
    num_idle_blocks: int
    num_empty_blocks: int
    num_hit_tokens: int
    num_miss_tokens: int


class BlockState(IntEnum):
    """What a KV block is used for; a higher one is busier."""

    EMPTY = 0
    CACHED = 1  # idle, with a prefix that may be found again
    USED = 2  # in one block table
    SHARED = 3  # in several


class _Table:
    """The block table of one admitted sequence.

    Attributes:
        blocks: KV blocks, in order of position.
        frozen: ``blocks`` as a tuple, until they change.
        num_settled: leading blocks that are full and were offered to the prefix cache, or came from it.
        publishes: whether further full blocks are offered.
        quiet_tokens: up to this length growing needs nothing done.
    """

    __slots__ = ("blocks", "frozen", "num_settled", "publishes", "quiet_tokens")

    def __init__(self, blocks: list[int], block_size: int, *, publishes: bool) -> None:
        self.blocks = blocks
        self.frozen: tuple[int, ...] | None = None
        self.num_settled = len(blocks)
        self.publishes = publishes
        self.quiet_tokens = len(blocks) * block_size

    def settle(self, block_size: int) -> None:
        """Recompute ``quiet_tokens`` after a change."""
        covered = len(self.blocks) * block_size
        next_full = (self.num_settled + 1) * block_size
        self.quiet_tokens = min(covered, next_full - 1) if self.publishes else covered


class KVManager:
    """Hands the blocks of one KV cache to sequences and shares equal prefixes between them.

    Sequences are only read. A call out of turn (growing an unknown sequence, admitting one twice) is the caller's bug
    and meets an ``assert``.
    """

    def __init__(self, config: KVCacheConfig) -> None:
        self._config = config
        self._block_size = config.block_size
        self._pool = BlockPool(config.num_blocks)
        self._cache = PrefixCache()
        self._digests = DigestChains(config.block_size)
        self._tables: dict[int, _Table] = {}
        self._num_hit_tokens = 0
        self._num_miss_tokens = 0

    @property
    def config(self) -> KVCacheConfig:
        """What the cache was made with."""
        return self._config

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be handed out: those without a reference, idle cached ones included."""
        return self._pool.num_free

    def peek_prefix(self, sequence: Sequence) -> CachedPrefix:
        """Return what :meth:`admit` would find now; changes nothing, not even the order of eviction.

        The prefix is whole blocks and leaves at least one known token to compute, so that there is something to sample
        from. A sequence whose prompt log-probabilities are wanted finds nothing: every position must be computed.
        """
        blocks = self._match(sequence)
        num_idle = sum(self._pool.num_references(block) == 0 for block in blocks)
        return CachedPrefix(len(blocks) * self._block_size, num_idle)

    def admit(self, sequence: Sequence) -> int:
        """Open a block table that begins with the sequence's cached prefix; return how many tokens that covers."""
        assert sequence.id not in self._tables, f"sequence {sequence.id} is admitted already"
        blocks = self._match(sequence)
        for block in blocks:
            self._pool.reference(block)
        self._tables[sequence.id] = _Table(blocks, self._block_size, publishes=self._config.enable_prefix_caching)
        num_cached = len(blocks) * self._block_size
        self._num_hit_tokens += num_cached
        self._num_miss_tokens += sequence.num_tokens - num_cached
        return num_cached

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Let the block table cover positions ``0 … num_tokens − 1``; it never shrinks.

        The caller promises to compute everything up to there in the step being planned: blocks that are full of known
        tokens then are published (see the module's docstring).

        Raises:
            MemoryBudgetError: if too few blocks are free; nothing has changed then.
        """
        assert sequence.id in self._tables, f"sequence {sequence.id} grows without being admitted"
        table = self._tables[sequence.id]
        if num_tokens <= table.quiet_tokens:
            return
        num_missing = ceil_div(num_tokens, self._block_size) - len(table.blocks)
        if num_missing > 0:
            self._append_blocks(table, num_missing)
        if table.publishes:
            self._publish(sequence, table, min(num_tokens, sequence.num_tokens) // self._block_size)
        table.settle(self._block_size)

    def release(self, sequence: Sequence) -> None:
        """Close the block table: its blocks lose a reference, the last one first."""
        assert sequence.id in self._tables, f"sequence {sequence.id} is released without being admitted"
        for block in reversed(self._tables.pop(sequence.id).blocks):
            self._pool.unreference(block, keep=block in self._cache)

    def forget(self, sequence_id: int) -> None:
        """Drop what is remembered of a sequence that will not come back (its digests); it must be released.

        Harmless for a sequence that was never seen.
        """
        assert sequence_id not in self._tables, f"sequence {sequence_id} is forgotten while it holds blocks"
        self._digests.forget(sequence_id)

    def block_table(self, sequence_id: int) -> tuple[int, ...]:
        """Return the blocks of an admitted sequence in order of position; the same tuple until it grows."""
        table = self._tables[sequence_id]
        if table.frozen is None:
            table.frozen = tuple(table.blocks)
        return table.frozen

    def num_held_blocks(self, sequence_id: int) -> int:
        """Return the length of an admitted sequence's block table."""
        return len(self._tables[sequence_id].blocks)

    def num_releasable_blocks(self, *sequence_ids: int) -> int:
        """Return how many blocks become free if all these admitted sequences are released together."""
        tables = [self._tables[sequence_id].blocks for sequence_id in sequence_ids]
        num_references = self._pool.num_references
        if len(tables) == 1:
            return sum(num_references(block) == 1 for block in tables[0])
        return sum(num_references(block) == count for block, count in Counter(chain.from_iterable(tables)).items())

    def cached_blocks(self, digests: Seq[bytes]) -> list[int]:
        """Return the blocks of the longest cached run of a chain of digests; they stay so until the next call."""
        return self._cache.match(digests, len(digests))

    def adopt(self, digests: Seq[bytes], fill: Callable[[list[int], int], None]) -> int:
        """Cache content that was computed elsewhere, in free blocks, as far as there are any.

        Args:
            digests: of the content's blocks, a chain from the first block of a sequence on.
            fill: told blocks and the place in ``digests`` of the first of them, writes their content. What it raises
                comes through; nothing is cached then that was not before.

        Returns:
            How many leading digests are cached now.
        """
        if not self._config.enable_prefix_caching:
            return 0
        table = _Table(self.cached_blocks(digests), self._block_size, publishes=False)
        for block in table.blocks:
            self._pool.reference(block)
        first = len(table.blocks)
        try:
            self._append_blocks(table, min(len(digests) - first, self._pool.num_free))
            fill(table.blocks[first:], first)
            for digest, block in zip(digests[first:], table.blocks[first:], strict=False):
                self._cache.publish(digest, block)
        finally:
            for block in reversed(table.blocks):
                self._pool.unreference(block, keep=block in self._cache)
        return len(table.blocks)

    def reset_prefix_cache(self) -> None:
        """Forget all cached content, for instance because the weights changed.

        Sequences that hold blocks keep them but publish nothing any more until they are admitted anew: what they
        compute rests on KV from before.
        """
        self._cache.clear()
        self._pool.drop_idle()
        for table in self._tables.values():
            table.publishes = False
            table.settle(self._block_size)

    def usage(self) -> KVUsage:
        """Return how the cache is used now."""
        pool = self._pool
        return KVUsage(
            num_blocks=pool.num_blocks,
            num_referenced_blocks=pool.num_blocks - pool.num_free,
            num_idle_blocks=pool.num_idle,
            num_empty_blocks=pool.num_empty,
            num_hit_tokens=self._num_hit_tokens,
            num_miss_tokens=self._num_miss_tokens,
        )

    def block_states(self) -> bytes:
        """Return the :class:`BlockState` of every block, by number; takes time in proportion to the blocks in use."""
        states = bytearray(self._pool.num_blocks)
        for block in self._pool.idle_blocks():
            states[block] = BlockState.CACHED
        for table in self._tables.values():
            for block in table.blocks:
                states[block] = BlockState.SHARED if states[block] >= BlockState.USED else BlockState.USED
        return bytes(states)

    def check_invariants(self, live_sequence_ids: Collection[int]) -> None:
        """Check all books against each other; slow, for tests and for hunting bugs.

        Args:
            live_sequence_ids: the sequences that should hold a block table now.

        Raises:
            AssertionError: if a block leaked, is counted wrongly, or is in two places; the message names it.
        """
        live, held = set(live_sequence_ids), set(self._tables)
        assert held == live, f"tables without a live sequence: {held - live}; live without a table: {live - held}"
        for sequence_id, table in self._tables.items():
            assert len(set(table.blocks)) == len(table.blocks), f"sequence {sequence_id} holds a block twice"
            assert table.frozen in (None, tuple(table.blocks)), f"sequence {sequence_id} shows an old table"
        self._pool.check_invariants(Counter(chain.from_iterable(table.blocks for table in self._tables.values())))
        self._cache.check_invariants()
        idle = set(self._pool.idle_blocks())
        free_cached = {b for b in range(self._pool.num_blocks) if b in self._cache and not self._pool.num_references(b)}
        assert free_cached == idle, f"idle blocks are {idle}, free blocks with cached content are {free_cached}"

    def _match(self, sequence: Sequence) -> list[int]:
        """Return the cached blocks that begin ``sequence``, leaving at least one token."""
        if not self._config.enable_prefix_caching or sequence.needs_whole_prompt:
            return []
        limit = (sequence.num_tokens - 1) // self._block_size
        return self._cache.match(self._digests.of(sequence, limit), limit)

    def _append_blocks(self, table: _Table, num_missing: int) -> None:
        """Append free blocks, evicting what they hold, or raise without a change."""
        if num_missing > self._pool.num_free:
            raise MemoryBudgetError(
                f"{num_missing} more KV blocks are needed, {self._pool.num_free} are free",
                field="num_blocks",
                remedy="Run fewer or shorter sequences at once, or give the KV cache more memory",
            )
        for _ in range(num_missing):
            block, was_idle = self._pool.take()
            if was_idle:
                self._cache.evict(block)
            table.blocks.append(block)
        table.frozen = None

    def _publish(self, sequence: Sequence, table: _Table, num_full: int) -> None:
        """Offer the blocks that are newly full to the prefix cache."""
        if num_full <= table.num_settled:
            return
        digests = self._digests.of(sequence, num_full)
        for index in range(table.num_settled, num_full):
            self._cache.publish(digests[index], table.blocks[index])
        table.num_settled = num_full
