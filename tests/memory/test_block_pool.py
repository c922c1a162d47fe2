"""The pool's order of handing out, and that its check finds every kind of wrong book."""

from __future__ import annotations

import pytest

from steelyard.memory.block_pool import BlockPool


def take(pool: BlockPool, count: int) -> list[int]:
    return [pool.take()[0] for _ in range(count)]


def test_all_blocks_start_empty_and_are_handed_out_once():
    pool = BlockPool(5)
    assert (pool.num_blocks, pool.num_free, pool.num_empty, pool.num_idle) == (5, 5, 5, 0)
    assert sorted(take(pool, 5)) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0


def test_empty_blocks_go_before_idle_ones_and_idle_ones_least_recently_used_first():
    pool = BlockPool(4)
    blocks = take(pool, 4)
    for block in (blocks[2], blocks[0], blocks[3]):
        pool.unreference(block, keep=True)
    pool.unreference(blocks[1], keep=False)
    assert pool.idle_blocks() == (blocks[2], blocks[0], blocks[3])
    assert [pool.take() for _ in range(4)] == [
        (blocks[1], False),
        (blocks[2], True),
        (blocks[0], True),
        (blocks[3], True),
    ]


def test_a_shared_block_is_free_after_its_last_reference():
    pool = BlockPool(1)
    (block,) = take(pool, 1)
    pool.reference(block)
    pool.unreference(block, keep=True)
    assert (pool.num_references(block), pool.num_free) == (1, 0)
    pool.unreference(block, keep=True)
    assert (pool.num_references(block), pool.num_free) == (0, 1)


def test_an_idle_block_taken_up_again_moves_to_the_young_end():
    pool = BlockPool(3)
    blocks = take(pool, 3)
    for block in blocks:
        pool.unreference(block, keep=True)
    pool.reference(blocks[0])
    assert pool.num_free == 2
    pool.unreference(blocks[0], keep=True)
    assert pool.idle_blocks() == (blocks[1], blocks[2], blocks[0])


def test_dropping_idle_blocks_keeps_them_free():
    pool = BlockPool(2)
    for block in take(pool, 2):
        pool.unreference(block, keep=True)
    pool.drop_idle()
    assert (pool.num_free, pool.num_idle) == (2, 0)
    assert pool.take()[1] is False


def test_misuse_is_caught():
    pool = BlockPool(1)
    with pytest.raises(AssertionError, match="is empty"):
        pool.reference(0)
    with pytest.raises(AssertionError, match="once too often"):
        pool.unreference(0, keep=False)
    pool.take()
    with pytest.raises(AssertionError, match="without free ones"):
        pool.take()


def break_count(pool: BlockPool) -> None:
    pool._num_references[0] += 1


def leak(pool: BlockPool) -> None:
    pool._empty.pop()


def free_twice(pool: BlockPool) -> None:
    pool._empty.append(pool._empty[-1])


def free_in_both(pool: BlockPool) -> None:
    pool._idle[pool._empty[-1]] = None


def free_while_referenced(pool: BlockPool) -> None:
    pool._idle[0] = None


def invent(pool: BlockPool) -> None:
    pool._empty.append(99)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_count, "counts 2 references"),
        (leak, "leaked"),
        (free_twice, "twice"),
        (free_in_both, "idle and empty"),
        (free_while_referenced, "referenced and free"),
        (invent, "does not exist"),
    ],
)
def test_the_check_finds_damage(damage, message):
    pool = BlockPool(4)
    assert pool.take()[0] == 0
    pool.check_invariants({0: 1})
    damage(pool)
    with pytest.raises(AssertionError, match=message):
        pool.check_invariants({0: 1})
