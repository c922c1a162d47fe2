"""The decisions of a step, one rule at a time, on hand-made views."""

from __future__ import annotations

from schedule_hand_made_view import Seq, View

from steelyard.core.kv import CachedPrefix
from steelyard.policies.schedule.in_order import schedule_in_order
from steelyard.policies.schedule.types import Grant, Schedule


def by_id(sequence: Seq) -> tuple[float, ...]:
    return (sequence.id,)


def decide(view: View) -> Schedule:
    return schedule_in_order(view, by_id)


def granted(schedule: Schedule) -> dict[int, int]:
    return {grant.sequence_id: grant.num_tokens for grant in schedule.grants}


def test_nothing_to_do_decides_nothing():
    assert decide(View()) == Schedule()


def test_a_prefill_gets_what_decodes_behind_it_leave_of_the_budget():
    view = View(
        running=[Seq(0, 50), Seq(1, 8, 7), Seq(2, 8, 7)], tables={0: "", 1: "ab", 2: "cd"}, budget=10, max_num_seqs=3
    )
    assert decide(view).grants == (Grant(0, 8), Grant(1, 1), Grant(2, 1))


def test_the_first_in_order_gets_a_token_even_when_decodes_want_the_whole_budget():
    view = View(running=[Seq(0, 50), Seq(1, 8, 7), Seq(2, 8, 7)], tables={0: "", 1: "ab", 2: "cd"}, budget=2)
    assert granted(decide(view)) == {0: 1, 1: 1}


def test_a_later_prefill_gets_nothing_when_decodes_use_the_budget():
    view = View(running=[Seq(0, 8, 7), Seq(1, 50), Seq(2, 8, 7)], tables={0: "ab", 1: "", 2: "cd"}, budget=2)
    assert granted(decide(view)) == {0: 1, 2: 1}


def test_a_chunk_leaves_the_blocks_that_decodes_behind_it_need():
    view = View(running=[Seq(0, 50, 4), Seq(1, 9, 8)], tables={0: "a", 1: "bc"}, num_free_blocks=3)
    assert decide(view) == Schedule((), (Grant(0, 8), Grant(1, 1)))


def test_a_chunk_shrinks_to_the_free_blocks_before_anyone_is_preempted():
    view = View(running=[Seq(0, 50, 2), Seq(1, 8, 7)], tables={0: "a", 1: "bc"}, num_free_blocks=0)
    assert decide(view) == Schedule((), (Grant(0, 2), Grant(1, 1)))


def test_who_needs_a_block_takes_it_from_the_last():
    view = View(running=[Seq(0, 5, 4), Seq(1, 4, 3), Seq(2, 4, 3)], tables={0: "a", 1: "b", 2: "c"}, num_free_blocks=0)
    assert decide(view) == Schedule((2,), (Grant(0, 1), Grant(1, 1)))


def test_one_preemption_serves_several():
    view = View(
        running=[Seq(0, 5, 4), Seq(1, 5, 4), Seq(2, 12, 11)], tables={0: "a", 1: "b", 2: "cde"}, num_free_blocks=0
    )
    assert decide(view) == Schedule((2,), (Grant(0, 1), Grant(1, 1)))


def test_victims_are_counted_from_the_back():
    view = View(running=[Seq(0, 5, 4), Seq(1, 4, 3), Seq(2, 4, 3)], tables={0: "a", 1: "a", 2: "b"}, num_free_blocks=0)
    assert decide(view) == Schedule((2,), (Grant(0, 1), Grant(1, 1)))


def test_a_chunk_leaves_nothing_for_decodes_that_are_preempted():
    view = View(running=[Seq(0, 50, 4), Seq(1, 9, 8)], tables={0: "a", 1: "bc"}, num_free_blocks=0)
    assert decide(view) == Schedule((1,), (Grant(0, 8),))


def test_victims_that_share_everything_are_preempted_together():
    view = View(running=[Seq(0, 5, 4), Seq(1, 5, 4), Seq(2, 5, 4)], tables={0: "a", 1: "b", 2: "b"}, num_free_blocks=0)
    assert decide(view) == Schedule((2, 1), (Grant(0, 1),))


def test_the_last_keeps_its_blocks_and_waits_when_nobody_is_behind():
    view = View(running=[Seq(0, 4, 3), Seq(1, 5, 4)], tables={0: "a", 1: "b"}, num_free_blocks=0)
    assert decide(view) == Schedule((), (Grant(0, 1),))


def test_nobody_is_preempted_in_vain():
    view = View(running=[Seq(0, 4, 3), Seq(1, 5, 4), Seq(2, 4, 3)], tables={0: "a", 1: "b", 2: "a"}, num_free_blocks=0)
    assert decide(view) == Schedule((), (Grant(0, 1), Grant(2, 1)))


def test_a_sequence_without_uncomputed_tokens_is_left_alone():
    view = View(running=[Seq(0, 4, 4), Seq(1, 50)], tables={0: "a", 1: ""}, budget=5)
    assert decide(view) == Schedule((), (Grant(1, 5),))


def test_admission_ends_with_the_seats():
    view = View(running=[Seq(0, 4, 3)], tables={0: "a"}, waiting=[Seq(2, 3), Seq(1, 3), Seq(3, 3)], max_num_seqs=3)
    assert granted(decide(view)) == {0: 1, 1: 3, 2: 3}


def test_admission_ends_with_the_budget_and_the_last_one_gets_a_chunk():
    view = View(waiting=[Seq(0, 6), Seq(1, 6), Seq(2, 6)], budget=8)
    assert granted(decide(view)) == {0: 6, 1: 2}
    assert view.peeked == [0, 1, 2], "only those considered are looked up"


def test_a_big_one_at_the_head_is_not_passed():
    view = View(running=[Seq(0, 4, 3)], tables={0: "a"}, waiting=[Seq(1, 40), Seq(2, 1)], num_free_blocks=10)
    assert granted(decide(view)) == {0: 1}
    assert view.peeked == [1]


def test_admission_needs_room_for_all_known_tokens_and_a_block_to_grow_each():
    view = View(running=[Seq(0, 4, 3)], tables={0: "a"}, waiting=[Seq(1, 40)], budget=5)
    view.num_free_blocks = 11
    assert granted(decide(view)) == {0: 1}
    view.num_free_blocks = 12
    assert granted(decide(view)) == {0: 1, 1: 4}


def test_admission_leaves_running_prefills_what_they_still_lack():
    view = View(running=[Seq(0, 40, 4)], tables={0: "a"}, waiting=[Seq(1, 4)], budget=5, num_free_blocks=11)
    assert granted(decide(view)) == {0: 5}
    view.budget, view.num_free_blocks = 50, 12
    assert granted(decide(view)) == {0: 36, 1: 4}


def test_with_nothing_running_the_whole_cache_may_be_taken():
    view = View(waiting=[Seq(0, 40)], num_free_blocks=10)
    assert granted(decide(view)) == {0: 40}
    assert decide(View(waiting=[Seq(0, 41)], num_free_blocks=10)) == Schedule()


def test_the_second_newcomer_needs_blocks_to_grow_again():
    assert granted(decide(View(waiting=[Seq(0, 4), Seq(1, 4)], num_free_blocks=3))) == {0: 4}
    assert granted(decide(View(waiting=[Seq(0, 4), Seq(1, 4)], num_free_blocks=4))) == {0: 4, 1: 4}


def test_cached_tokens_cost_no_budget_and_only_idle_blocks_of_them_count_as_taken():
    view = View(waiting=[Seq(0, 41)], num_free_blocks=3, prefixes={0: CachedPrefix(40, 2)}, budget=7)
    assert granted(decide(view)) == {0: 1}
    view.num_free_blocks = 2
    assert decide(view) == Schedule()


def test_nobody_is_admitted_in_a_step_that_preempts():
    view = View(
        running=[Seq(0, 5, 4), Seq(1, 40, 39)],
        tables={0: "a", 1: "bcdefghijk"},
        waiting=[Seq(2, 1)],
        num_free_blocks=0,
    )
    assert decide(view) == Schedule((1,), (Grant(0, 1),))


def test_a_newcomer_that_may_displace_gets_a_seat_from_the_last():
    view = View(running=[Seq(1, 4, 3), Seq(2, 4, 3)], tables={1: "a", 2: "b"}, waiting=[Seq(0, 4)], max_num_seqs=2)
    assert schedule_in_order(view, by_id, lambda newcomer, runner: True) == Schedule((2,), (Grant(1, 1),))
    assert schedule_in_order(view, by_id, lambda newcomer, runner: runner.id != 2) == Schedule(
        (), (Grant(1, 1), Grant(2, 1))
    )


def test_a_newcomer_displaces_as_many_as_its_blocks_need_or_nobody():
    view = View(
        running=[Seq(1, 4, 3), Seq(2, 8, 7), Seq(3, 8, 7)],
        tables={1: "a", 2: "bc", 3: "de"},
        waiting=[Seq(0, 8)],
        num_free_blocks=0,
    )
    assert schedule_in_order(view, by_id, lambda *_: True).preempt == (3, 2)
    assert schedule_in_order(view, by_id, lambda newcomer, runner: runner.id == 3).preempt == ()
    view.waiting = [Seq(0, 100)]
    assert schedule_in_order(view, by_id, lambda *_: True).preempt == ()


def test_a_prefix_shared_with_the_displaced_counts_as_to_be_taken():
    view = View(running=[Seq(1, 5, 4)], tables={1: "a"}, waiting=[Seq(0, 8)], num_free_blocks=0)
    view.prefixes[0] = CachedPrefix(4, 0)
    assert schedule_in_order(view, by_id, lambda *_: True).preempt == ()


def test_nobody_is_displaced_for_a_newcomer_that_fits():
    view = View(running=[Seq(1, 4, 3)], tables={1: "a"}, waiting=[Seq(0, 4)], max_num_seqs=2)
    assert schedule_in_order(view, by_id, lambda *_: True) == Schedule((), (Grant(1, 1), Grant(0, 4)))
