"""Random lives of sequences against a model that knows what every block really holds.

The model writes tokens into blocks exactly where an executor would. Whatever the manager then hands out as a cached
prefix must hold the sequence's own tokens, after the same salt and prefix.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from steelyard.core.errors import MemoryBudgetError
from steelyard.core.kv import CachedPrefix
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.memory.kv_manager import KVCacheConfig, KVManager
from steelyard.memory.prefix_cache import prompt_digests

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=10)


class KVMachine(RuleBasedStateMachine):
    """Model: block → what was last written to it, and under which weights."""

    waiting = Bundle("waiting")
    running = Bundle("running")

    @initialize(
        num_blocks=st.integers(1, 12), block_size=st.integers(1, 3), caching=st.sampled_from([True, True, False])
    )
    def make(self, num_blocks, block_size, caching):
        self.kv = KVManager(KVCacheConfig(num_blocks=num_blocks, block_size=block_size, enable_prefix_caching=caching))
        self.block_size, self.caching, self.num_blocks = block_size, caching, num_blocks
        self.content: dict[int, tuple] = {}
        self.live: dict[int, Sequence] = {}
        self.next_id = 0
        self.generation = 0
        self.born: dict[int, int] = {}

    def prefix_at(self, one: Sequence, block_index: int) -> tuple:
        """What a block at this index of the sequence holds once full: everything up to its end, and the salt."""
        return (one.cache_salt, tuple(one.tokens[: (block_index + 1) * self.block_size]))

    @rule(target=waiting, prompt=tokens, salt=st.sampled_from(["", "tenant"]))
    def arrive(self, prompt, salt):
        one = Sequence(
            id=self.next_id,
            request_id="",
            index=0,
            prompt=tuple(prompt),
            params=SamplingParams(),
            seed=0,
            arrival_s=0.0,
            cache_salt=salt,
        )
        self.next_id += 1
        return one

    @rule(one=waiting)
    def peek(self, one):
        before = self.kv.usage(), self.kv._pool.idle_blocks()
        prefix = self.kv.peek_prefix(one)
        assert (self.kv.usage(), self.kv._pool.idle_blocks()) == before
        assert prefix.num_tokens < one.num_tokens
        assert prefix.num_tokens % self.block_size == 0
        assert prefix.num_idle_blocks <= prefix.num_tokens // self.block_size
        if not self.caching:
            assert prefix == CachedPrefix()

    @rule(target=running, one=consumes(waiting))
    def admit(self, one):
        peeked, num_free = self.kv.peek_prefix(one), self.kv.num_free_blocks
        hits = self.kv.usage().num_hit_tokens
        one.num_computed_tokens = self.kv.admit(one)
        assert one.num_computed_tokens == peeked.num_tokens
        assert self.kv.num_free_blocks == num_free - peeked.num_idle_blocks
        assert self.kv.usage().num_hit_tokens == hits + peeked.num_tokens
        for index, block in enumerate(self.kv.block_table(one.id)):
            assert self.content[block] == (self.generation, *self.prefix_at(one, index)), "a hit on wrong content"
        self.live[one.id] = one
        self.born[one.id] = self.generation
        return one

    @rule(one=running, new=st.integers(1, 6))
    def grow(self, one, new):
        end = min(one.num_computed_tokens + new, one.num_tokens)
        held = self.kv.block_table(one.id)
        needed = max(0, ceil_div(end, self.block_size) - len(held))
        state = self.kv.usage(), self.kv._pool.idle_blocks(), held
        if needed > self.kv.num_free_blocks:
            with pytest.raises(MemoryBudgetError):
                self.kv.grow(one, end)
            assert (self.kv.usage(), self.kv._pool.idle_blocks(), self.kv.block_table(one.id)) == state
            return
        empty, idle = self.kv.usage().num_empty_blocks, self.kv._pool.idle_blocks()
        self.kv.grow(one, end)
        table = self.kv.block_table(one.id)
        evicted = max(0, needed - empty)
        assert table[: len(held)] == held
        assert table[len(table) - evicted :] == idle[:evicted], "not evicted from the old end"
        assert self.kv._pool.idle_blocks() == idle[evicted:]
        self.write(one, table, end)
        one.num_computed_tokens = end

    def write(self, one: Sequence, table: tuple[int, ...], end: int) -> None:
        """Fill positions like an executor, and check that nobody else reads what is overwritten."""
        for index in range(one.num_computed_tokens // self.block_size, len(table)):
            first = max(one.num_computed_tokens, index * self.block_size)
            if first >= min(end, (index + 1) * self.block_size):
                continue
            for other in self.live.values():
                assert other is one or table[index] not in self.kv.block_table(other.id), "wrote into a shared block"
            full = (index + 1) * self.block_size <= end
            self.content[table[index]] = (self.born[one.id], *self.prefix_at(one, index)) if full else ()

    @rule(one=running, token=st.integers(0, 1))
    def decode(self, one, token):
        if one.num_computed_tokens == one.num_tokens:
            one.tokens.append(token)

    @rule(target=waiting, one=consumes(running))
    def preempt(self, one):
        others = [sequence_id for sequence_id in self.live if sequence_id != one.id]
        releasable, num_free = self.kv.num_releasable_blocks(one.id), self.kv.num_free_blocks
        old, table = self.kv._pool.idle_blocks(), self.kv.block_table(one.id)
        self.kv.release(one)
        assert self.kv.num_free_blocks == num_free + releasable
        newly_idle = self.kv._pool.idle_blocks()[len(old) :]
        assert self.kv._pool.idle_blocks()[: len(old)] == old
        assert list(newly_idle) == [block for block in reversed(table) if block in newly_idle], "head before tail"
        self.live.pop(one.id)
        one.num_computed_tokens = 0
        self.kv.check_invariants(others)
        return one

    @rule(one=consumes(running))
    def finish(self, one):
        self.kv.release(one)
        self.live.pop(one.id)
        self.kv.forget(one.id)

    @rule(one=consumes(waiting))
    def cancel(self, one):
        self.kv.forget(one.id)

    @rule(prompt=tokens, salt=st.sampled_from(["", "tenant"]), fails=st.booleans())
    def adopt(self, prompt, salt, fails):
        """A parcel comes from another engine of the same weights, or breaks off while it is written."""
        digests = prompt_digests(prompt, salt, self.block_size, len(prompt))
        chain = [(self.generation, salt, tuple(prompt[: i * self.block_size])) for i in range(1, len(digests) + 1)]
        known = self.kv.cached_blocks(digests)
        room = self.kv.num_free_blocks - sum(self.kv._pool.num_references(block) == 0 for block in known)

        def fill(blocks, first):
            for other in self.live.values():
                assert not set(blocks) & set(self.kv.block_table(other.id)), "wrote into a held block"
            self.content.update(zip(blocks, chain[first:], strict=False))
            if fails:
                raise BrokenPipeError

        expected = min(len(digests), len(known) + room) if self.caching else 0
        if fails and self.caching:
            with pytest.raises(BrokenPipeError):
                self.kv.adopt(digests, fill)
        else:
            assert self.kv.adopt(digests, fill) == expected == len(self.kv.cached_blocks(digests))
        for block, content in zip(self.kv.cached_blocks(digests), chain, strict=False):
            assert self.content[block] == content, "found wrong content"

    @rule()
    def weights_change(self):
        self.kv.reset_prefix_cache()
        self.generation += 1
        assert self.kv.usage().num_idle_blocks == 0
        assert all(self.kv.peek_prefix(one) == CachedPrefix() for one in self.live.values())

    @precondition(lambda self: len(self.live) > 1)
    @rule()
    def release_all_is_what_was_announced(self):
        assert self.kv.num_free_blocks + self.kv.num_releasable_blocks(*self.live) == self.num_blocks

    @invariant()
    def books_agree(self):
        if hasattr(self, "kv"):
            self.kv.check_invariants(list(self.live))
            usage = self.kv.usage()
            kinds = usage.num_referenced_blocks, usage.num_idle_blocks, usage.num_empty_blocks
            assert sum(kinds) == usage.num_blocks == self.num_blocks


TestKVManagerMachine = KVMachine.TestCase
TestKVManagerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
