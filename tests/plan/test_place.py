"""Pools: the best value is taken, enough of it, and a budget is split as brute force would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.place import Kind, kinds, place, split

PREFILL = {1: 2.0, 2: 5.0, 4: 8.0}  # devices → requests per second
DECODE = {1: 1.0, 2: 1.5, 4: 6.0}


def known(table: dict[int, float]) -> list[Kind[int]]:
    return kinds(table, float, table.__getitem__)


def test_each_phase_takes_what_serves_most_per_device():
    found = place(9.0, known(PREFILL), known(DECODE))
    assert (found.prefill.kind.what, found.prefill.count) == (2, 2)
    assert (found.decode.kind.what, found.decode.count) == (4, 2)
    assert found.price == 12.0
    assert found.goodput_per_s == 10.0
    assert [kind and kind.what for kind in found.runners_up] == [1, 1]


def test_a_phase_that_cannot_be_served_is_named():
    with pytest.raises(InputError, match="decode: no instance that fits meets"):
        place(1.0, known(PREFILL), known({1: 0.0}))
    with pytest.raises(InputError, match="prefill: no instance fits"):
        place(1.0, [], known(DECODE))
    with pytest.raises(ParamsError, match="rate"):
        place(0.0, known(PREFILL), known(DECODE))


@given(st.floats(1, 40), st.floats(0.5, 4), st.floats(0.5, 4), st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_budget_is_split_as_brute_force_would(budget, prefill_price, decode_price, prefill_rate, decode_rate):
    first = Kind(what="p", price=prefill_price, goodput_per_s=prefill_rate)
    second = Kind(what="d", price=decode_price, goodput_per_s=decode_rate)
    every = [
        min(one * prefill_rate, other * decode_rate)
        for one in range(1, 90)
        for other in range(1, 90)
        if one * prefill_price + other * decode_price <= budget
    ]
    if not every:
        with pytest.raises(InputError, match="budget"):
            split(budget, first, second)
        return
    found = split(budget, first, second)
    assert found.price <= budget * (1 + 1e-12)
    assert found.goodput_per_s == pytest.approx(max(every))
