"""Promised blocks, against a plain sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.engine.promises import Promises


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 100)), max_size=40))
def test_the_sum_is_that_of_the_promises_kept(steps):
    promises, plain = Promises(), dict[int, int]()
    for sequence_id, num_blocks in steps:
        if sequence_id in plain:
            promises.drop(sequence_id)
            del plain[sequence_id]
        else:
            promises.make(sequence_id, num_blocks)
            plain[sequence_id] = num_blocks
        assert promises.num_blocks == sum(plain.values())


def test_whoever_is_not_known_is_ignored_and_nobody_is_promised_twice():
    promises = Promises()
    promises.drop(1)
    promises.make(1, 2)
    with pytest.raises(AssertionError):
        promises.make(1, 3)
    assert promises.num_blocks == 2
