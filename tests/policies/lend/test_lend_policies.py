"""What each lending policy promises by itself."""

from __future__ import annotations

import pytest

from steelyard.core.kv import Loan
from steelyard.policies.lend import make_lend_policy
from steelyard.policies.lend.types import InstanceView, StepTimes, WaitingView

TIMES = StepTimes(weights_s=1.0, sequence_s=0.1, block_s=0.01, exchange_s=0.5)
SHORT_OF_MEMORY = InstanceView(
    id="a",
    num_blocks=100,
    num_free_blocks=10,
    batch_size=1,
    num_here_blocks=90,
    waiting=(WaitingView(id=4, num_blocks=30),),
    times=TIMES,
)


def idle(name: str, free: int, **changes) -> InstanceView:
    return InstanceView(**{"id": name, "num_blocks": 100, "num_free_blocks": free, "times": TIMES, **changes})


def test_step_times_by_hand():
    assert TIMES.step_s(5, 20, 0) == pytest.approx(1.0 + 0.2)
    assert TIMES.step_s(20, 20, 0) == pytest.approx(2.0 + 0.2)
    assert TIMES.step_s(5, 20, 10) == pytest.approx(1.0 + 0.6)
    assert TIMES.step_s(5, 80, 10) == pytest.approx(1.0 + 0.8)


def test_what_is_lacking_comes_from_the_freest():
    pool = [SHORT_OF_MEMORY, idle("b", 12), idle("c", 70)]
    assert make_lend_policy("greedy", reserve_share=0.0)(pool) == (
        Loan(lender="c", borrower="a", sequence_id=4, num_blocks=20),
    )
    assert make_lend_policy("none")(pool) == ()


def test_a_reserve_is_kept():
    loans = make_lend_policy("greedy", reserve_share=0.6)([SHORT_OF_MEMORY, idle("b", 65), idle("c", 79)])
    assert loans == (
        Loan(lender="c", borrower="a", sequence_id=4, num_blocks=19),
        Loan(lender="b", borrower="a", sequence_id=4, num_blocks=1),
    )


def test_a_loan_that_slows_the_pool_is_not_made():
    """The borrower gains 2/2.0 − 1/1.9 = 0.47 tokens/s; a lender of 9 sequences loses 9/1.5 − 9/1.7 = 0.71."""
    busy = idle("b", 40, batch_size=9, num_here_blocks=50)
    policy = make_lend_policy("greedy", reserve_share=0.0)
    assert policy([SHORT_OF_MEMORY, busy]) == ()
    assert policy([SHORT_OF_MEMORY, idle("b", 40, batch_size=3, num_here_blocks=50)])


def test_who_waits_for_memory_itself_does_not_lend():
    waits = idle("b", 40, waiting=(WaitingView(id=1, num_blocks=50),), batch_size=5)
    assert make_lend_policy("greedy", reserve_share=0.0)([SHORT_OF_MEMORY, waits]) == ()


def test_the_smallest_batch_borrows_first():
    full = InstanceView(
        id="0",
        num_blocks=100,
        num_free_blocks=0,
        batch_size=7,
        num_here_blocks=100,
        waiting=(WaitingView(id=1, num_blocks=20),),
        times=TIMES,
    )
    (loan,) = make_lend_policy("greedy", reserve_share=0.0)([full, SHORT_OF_MEMORY, idle("b", 25)])
    assert (loan.borrower, loan.num_blocks) == ("a", 20)


def test_a_sequence_too_long_for_its_instance_takes_what_there_is_whatever_it_costs():
    home = idle("a", 30, batch_size=2, num_here_blocks=70, waiting=(WaitingView(id=9, num_blocks=150),))
    busy = idle("b", 40, batch_size=60, num_here_blocks=60)
    policy = make_lend_policy("greedy", reserve_share=0.5)
    assert policy([home, busy]) == (Loan(lender="b", borrower="a", sequence_id=9, num_blocks=40),)


def test_who_was_lent_for_goes_on_before_an_older_one():
    begun = idle("a", 0, waiting=(WaitingView(id=9, num_blocks=150, num_borrowed=100),))
    older = idle("b", 0, waiting=(WaitingView(id=2, num_blocks=150),))
    loans = make_lend_policy("greedy")([begun, older, idle("c", 80)])
    assert loans == (Loan(lender="c", borrower="a", sequence_id=9, num_blocks=50),)
