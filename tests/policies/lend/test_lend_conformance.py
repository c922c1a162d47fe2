"""What every registered lending policy must do: random pools, decision after decision."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.core.kv import Loan
from steelyard.policies.lend import LEND_POLICIES, make_lend_policy
from steelyard.policies.lend.types import InstanceView, StepTimes, WaitingView

VARIANTS: list[tuple[str, dict[str, Any]]] = [("none", {}), ("greedy", {}), ("greedy", {"reserve_share": 0.4})]
TIMES = StepTimes(weights_s=0.01, sequence_s=1e-4, block_s=1e-4, exchange_s=1e-3)


def test_every_registered_policy_is_under_test():
    assert {name for name, _ in VARIANTS} == LEND_POLICIES.keys()


@st.composite
def pools(draw: st.DrawFn) -> list[InstanceView]:
    ids = iter(draw(st.permutations(range(40))))
    pool = []
    for index in range(draw(st.integers(0, 5))):
        total = draw(st.integers(1, 60))
        free = draw(st.integers(0, total))
        waiting = []
        for _ in range(draw(st.integers(0, 3))):
            needed = draw(st.integers(1, 120))
            waiting.append(WaitingView(id=next(ids), num_blocks=needed, num_borrowed=draw(st.integers(0, needed))))
        here = total - free
        pool.append(
            InstanceView(
                id=f"instance-{index}",
                num_blocks=total,
                num_free_blocks=free,
                batch_size=draw(st.integers(0, here)),
                num_here_blocks=here,
                num_away_blocks=draw(st.integers(0, 50)),
                waiting=tuple(sorted(waiting, key=lambda one: one.id)),
                times=TIMES,
            )
        )
    return pool


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(pool=pools())
@settings(max_examples=200)
def test_loans_are_possible_and_wanted(name, options, pool):
    """Nobody lends what it has not, to itself, or while it borrows; nobody borrows what no sequence of his lacks."""
    before = copy.deepcopy(pool)
    loans = make_lend_policy(name, **options)(pool)
    assert pool == before, "deciding changed the view"
    views = {view.id: view for view in pool}
    given_away, taken = Counter[str](), Counter[tuple[str, int]]()
    for loan in loans:
        assert loan.num_blocks > 0
        given_away[loan.lender] += loan.num_blocks
        taken[loan.borrower, loan.sequence_id] += loan.num_blocks
    assert all(count <= views[lender].num_free_blocks for lender, count in given_away.items())
    assert not given_away.keys() & {borrower for borrower, _ in taken}
    for (borrower, sequence_id), count in taken.items():
        waiting = {one.id: one for one in views[borrower].waiting}[sequence_id]
        assert count <= waiting.num_blocks - waiting.num_borrowed


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(pool=pools(), seed=st.integers(0, 99))
def test_the_same_pool_in_any_order_gives_the_same_loans(name, options, pool, seed):
    shuffled = Random(seed).sample(pool, len(pool))
    policy = make_lend_policy(name, **options)
    assert policy(pool) == policy(shuffled) == make_lend_policy(name, **options)(pool)


def carried_out(pool: list[InstanceView], loans: tuple[Loan, ...]) -> list[InstanceView]:
    """The pool once the loans are made: lenders have fewer free blocks, sequences more that they borrowed."""
    for loan in loans:
        for index, view in enumerate(pool):
            if view.id == loan.lender:
                pool[index] = replace(view, num_free_blocks=view.num_free_blocks - loan.num_blocks)
            if view.id == loan.borrower:
                waiting = tuple(
                    replace(one, num_borrowed=one.num_borrowed + loan.num_blocks) if one.id == loan.sequence_id else one
                    for one in view.waiting
                )
                pool[index] = replace(view, waiting=waiting)
    return pool


@pytest.mark.parametrize(("name", "options"), [variant for variant in VARIANTS if variant[0] != "none"])
def test_what_fits_the_pool_alone_runs_sooner_or_later(name, options):
    """Two sequences too long for any instance: the older gathers all blocks as they come free, nothing is split."""
    long = [WaitingView(id=number, num_blocks=95) for number in (7, 3)]
    pool = [InstanceView(id=f"i{n}", num_blocks=30, num_free_blocks=0, batch_size=30, times=TIMES) for n in range(4)]
    pool[0], pool[1] = replace(pool[0], waiting=long[:1]), replace(pool[1], waiting=long[1:])
    policy, rng = make_lend_policy(name, **options), Random(1)
    for _ in range(400):
        lucky = rng.randrange(4)
        free = min(30, pool[lucky].num_free_blocks + rng.randint(1, 3))
        if pool[lucky].batch_size:
            pool[lucky] = replace(pool[lucky], num_free_blocks=free, batch_size=pool[lucky].batch_size - 1)
        pool = carried_out(pool, policy(pool))
        assert pool[0].waiting[0].num_borrowed == 0, "the younger one got some of what the older one lacks"
    assert pool[1].waiting[0].num_borrowed + pool[1].num_free_blocks >= 95


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ParamsError, match="greedy, none") as caught:
        make_lend_policy("generous")
    assert caught.value.field == "lend_policy"
    with pytest.raises(ParamsError, match="reserve_share"):
        make_lend_policy("greedy", share=1)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ParamsError, match="share below 1"):
            make_lend_policy("greedy", reserve_share=share)
