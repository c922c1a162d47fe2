"""What the KV manager's docstrings promise, one example each."""

from __future__ import annotations

import pytest

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.kv import CachedPrefix
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.memory.kv_manager import BlockState, KVCacheConfig, KVManager


def manager(num_blocks: int = 10, block_size: int = 4, *, caching: bool = True) -> KVManager:
    return KVManager(KVCacheConfig(num_blocks=num_blocks, block_size=block_size, enable_prefix_caching=caching))


def sequence(id: int, tokens: range, salt: str = "", **params) -> Sequence:
    return Sequence(
        id=id,
        request_id="",
        index=0,
        prompt=tuple(tokens),
        params=SamplingParams(**params),
        seed=0,
        arrival_s=0.0,
        cache_salt=salt,
    )


def enter(kv: KVManager, one: Sequence) -> int:
    """Admit and compute all known tokens; return how many came from the cache."""
    num_cached = kv.admit(one)
    kv.grow(one, one.num_tokens)
    return num_cached


@pytest.mark.parametrize("field", ["num_blocks", "block_size"])
def test_sizes_must_be_positive(field):
    with pytest.raises(ParamsError) as caught:
        KVCacheConfig(**{"num_blocks": 1, "block_size": 1, field: 0})
    assert caught.value.field == field


def test_a_table_covers_what_was_grown_and_never_shrinks():
    kv, one = manager(), sequence(0, range(9))
    assert kv.admit(one) == 0
    assert kv.block_table(0) == ()
    for num_tokens, num_blocks in ((1, 1), (4, 1), (5, 2), (9, 3), (2, 3)):
        kv.grow(one, num_tokens)
        assert kv.num_held_blocks(0) == len(kv.block_table(0)) == num_blocks
        assert kv.num_free_blocks == 10 - num_blocks
        kv.check_invariants([0])


def test_the_table_is_the_same_tuple_until_it_grows():
    kv, one = manager(), sequence(0, range(9))
    kv.admit(one)
    kv.grow(one, 5)
    table = kv.block_table(0)
    kv.grow(one, 8)
    assert kv.block_table(0) is table
    kv.grow(one, 9)
    assert kv.block_table(0)[:2] == table
    assert len(kv.block_table(0)) == 3


def test_an_equal_prefix_is_shared_and_leaves_one_token():
    kv, first, second = manager(), sequence(0, range(8)), sequence(1, range(8))
    enter(kv, first)
    assert kv.peek_prefix(second) == CachedPrefix(4, 0)
    assert kv.admit(second) == 4
    assert kv.block_table(1) == kv.block_table(0)[:1]
    kv.release(first)
    third = sequence(2, range(12))
    assert kv.peek_prefix(third) == CachedPrefix(8, 1)
    kv.check_invariants([1])


def test_a_sequence_admitted_in_the_same_step_shares_what_is_planned():
    kv, first, second = manager(), sequence(0, range(12)), sequence(1, range(12))
    kv.admit(first)
    kv.grow(first, 7)
    assert kv.admit(second) == 4


def test_a_block_is_published_when_it_is_full_and_not_before():
    kv, one, probe = manager(), sequence(0, range(3)), sequence(1, range(9))
    enter(kv, one)
    assert kv.peek_prefix(probe).num_tokens == 0
    one.tokens.append(3)
    kv.grow(one, 4)
    assert kv.peek_prefix(probe).num_tokens == 4
    one.tokens.append(4)
    kv.grow(one, 5)
    assert kv.peek_prefix(probe).num_tokens == 4


def test_blocks_beyond_the_known_tokens_are_not_published():
    kv, one = manager(), sequence(0, range(6))
    kv.admit(one)
    kv.grow(one, 8)
    assert kv.num_held_blocks(0) == 2
    assert kv.peek_prefix(sequence(1, range(9))).num_tokens == 4
    one.tokens += [6, 7]
    kv.grow(one, 8)
    assert kv.peek_prefix(sequence(1, range(9))).num_tokens == 8


def test_salts_do_not_share():
    kv = manager()
    enter(kv, sequence(0, range(8), "a"))
    assert kv.peek_prefix(sequence(1, range(8), "b")) == CachedPrefix()
    assert kv.peek_prefix(sequence(2, range(8), "a")) == CachedPrefix(4, 0)


def test_prompt_logprobs_are_computed_whole_but_can_be_shared_by_others():
    kv = manager()
    enter(kv, sequence(0, range(8)))
    assert enter(kv, sequence(1, range(8), prompt_logprobs=0)) == 0
    kv.reset_prefix_cache()
    enter(kv, sequence(2, range(8), prompt_logprobs=0))
    assert kv.peek_prefix(sequence(3, range(8))).num_tokens == 4


def test_without_caching_nothing_is_shared_or_kept():
    kv, one = manager(caching=False), sequence(0, range(8))
    enter(kv, one)
    assert enter(kv, sequence(1, range(8))) == 0
    kv.release(one)
    assert kv.usage().num_idle_blocks == 0
    kv.check_invariants([1])


def test_of_two_equal_blocks_the_first_keeps_the_name():
    kv, first, second = manager(), sequence(0, range(8)), sequence(1, range(8))
    kv.admit(first)
    kv.admit(second)
    kv.grow(first, 8)
    kv.grow(second, 8)
    assert not set(kv.block_table(0)) & set(kv.block_table(1))
    third = sequence(2, range(8))
    kv.admit(third)
    assert kv.block_table(2) == kv.block_table(0)[:1]
    kv.release(second)
    assert kv.usage().num_idle_blocks == 0, "nameless blocks are not worth keeping"
    kv.check_invariants([0, 2])


def test_tails_are_evicted_before_heads_and_old_before_young():
    kv = manager(num_blocks=6)
    old, young = sequence(0, range(12)), sequence(1, range(100, 112))
    for one in (old, young):
        enter(kv, one)
    kv.release(old)
    kv.release(young)
    hungry = sequence(2, range(200, 224))
    kv.admit(hungry)
    found = []
    for num_tokens in range(4, 25, 4):
        kv.grow(hungry, num_tokens)
        found.append([kv.peek_prefix(sequence(9 + i, range(i, i + 13))).num_tokens for i in (0, 100)])
    assert found == [[8, 12], [4, 12], [0, 12], [0, 8], [0, 4], [0, 0]]


def test_a_hit_makes_a_prefix_young_again_but_a_peek_does_not():
    kv = manager(num_blocks=4)
    first, second = sequence(0, range(5)), sequence(1, range(100, 105))
    for one in (first, second):
        enter(kv, one)
    for one in (first, second):
        kv.release(one)
    kv.peek_prefix(first)
    assert kv.admit(first) == 4
    kv.release(first)
    enter(kv, sequence(2, range(200, 212)))
    assert kv.peek_prefix(first).num_tokens == 4
    assert kv.peek_prefix(second).num_tokens == 0


def test_growing_beyond_the_cache_raises_and_changes_nothing():
    kv, one, other = manager(num_blocks=4), sequence(0, range(20)), sequence(1, range(50, 56))
    enter(kv, other)
    kv.release(other)
    kv.admit(one)
    kv.grow(one, 3)
    before = kv.usage(), kv.block_table(0), kv.peek_prefix(other)
    with pytest.raises(MemoryBudgetError, match="4 more KV blocks are needed, 3 are free"):
        kv.grow(one, 20)
    assert (kv.usage(), kv.block_table(0), kv.peek_prefix(other)) == before
    kv.check_invariants([0])
    kv.grow(one, 16)
    assert kv.num_free_blocks == 0


def test_releasable_blocks_of_several_include_those_only_they_share():
    kv = manager()
    sequences = [sequence(i, range(9)) for i in range(3)]
    for one in sequences:
        enter(kv, one)
    assert [kv.num_releasable_blocks(i) for i in range(3)] == [1, 1, 1]
    assert kv.num_releasable_blocks(0, 1) == 2
    assert kv.num_releasable_blocks(0, 1, 2) == 5
    assert kv.num_releasable_blocks() == 0
    kv.release(sequences[0])
    assert kv.num_releasable_blocks(1, 2) == 4


def test_usage_adds_up_and_counts_hits():
    kv, one = manager(), sequence(0, range(9))
    enter(kv, one)
    kv.release(one)
    assert enter(kv, sequence(1, range(6))) == 4
    usage = kv.usage()
    assert (usage.num_referenced_blocks, usage.num_idle_blocks, usage.num_empty_blocks) == (2, 1, 7)
    assert (usage.num_hit_tokens, usage.num_miss_tokens) == (4, 9 + 2)
    assert kv.num_free_blocks == 8


def test_the_state_of_each_block():
    kv = manager(num_blocks=6)
    assert kv.block_states() == bytes(6)
    first, second = sequence(1, range(10)), sequence(2, range(9))
    enter(kv, first)
    enter(kv, second)
    states = kv.block_states()
    assert [states.count(state) for state in BlockState] == [2, 0, 2, 2]
    assert all(states[block] == BlockState.SHARED for block in kv.block_table(1)[:2])
    assert states[kv.block_table(1)[2]] == states[kv.block_table(2)[2]] == BlockState.USED
    kv.release(first)
    kv.release(second)
    assert [kv.block_states().count(state) for state in BlockState] == [4, 2, 0, 0]


def test_after_a_reset_running_sequences_publish_nothing_old():
    kv, running, probe = manager(), sequence(0, range(8)), sequence(1, range(12))
    enter(kv, running)
    kv.reset_prefix_cache()
    running.tokens += range(8, 12)
    kv.grow(running, 12)
    kv.check_invariants([0])
    assert enter(kv, probe) == 0
    assert set(kv.block_table(0)).isdisjoint(kv.block_table(1))
    third = sequence(2, range(13))
    kv.admit(third)
    assert kv.block_table(2) == kv.block_table(1), "the new one is found, whole"
    kv.release(running)
    kv.check_invariants([1, 2])


def test_a_preempted_sequence_finds_its_own_blocks_again():
    kv, one = manager(), sequence(0, range(9))
    enter(kv, one)
    table = kv.block_table(0)
    kv.release(one)
    assert kv.admit(one) == 8
    assert kv.block_table(0) == table[:2]


def test_calls_out_of_turn_are_caught():
    kv, one = manager(), sequence(0, range(3))
    with pytest.raises(AssertionError, match="without being admitted"):
        kv.grow(one, 1)
    with pytest.raises(AssertionError, match="without being admitted"):
        kv.release(one)
    kv.forget(0)
    kv.admit(one)
    with pytest.raises(AssertionError, match="admitted already"):
        kv.admit(one)
    with pytest.raises(AssertionError, match="holds blocks"):
        kv.forget(0)


def test_the_check_names_wrong_live_sequences():
    kv = manager()
    enter(kv, sequence(4, range(3)))
    with pytest.raises(AssertionError, match=r"tables without a live sequence: \{4\}; live without a table: \{5\}"):
        kv.check_invariants([5])


def test_the_check_finds_damage():
    kv = manager()
    enter(kv, sequence(0, range(8)))
    kv._tables[0].blocks.append(kv._tables[0].blocks[0])
    with pytest.raises(AssertionError, match="holds a block twice"):
        kv.check_invariants([0])
    kv._tables[0].blocks[-1:] = []
    kv._tables[0].blocks.append(9)
    with pytest.raises(AssertionError, match="counts 0 references"):
        kv.check_invariants([0])
    kv._tables[0].blocks.pop()
    assert len(kv.block_table(0)) == 2
    kv._tables[0].blocks.append(9)
    with pytest.raises(AssertionError, match="shows an old table"):
        kv.check_invariants([0])
    kv._tables[0].blocks.pop()
    kv._cache.publish(b"x", 9)
    with pytest.raises(AssertionError, match="free blocks with cached content"):
        kv.check_invariants([0])
