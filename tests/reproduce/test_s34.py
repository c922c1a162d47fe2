"""S34: what is drawn, and which static engines hold it."""

from __future__ import annotations

import pytest

from steelyard.core.errors import InputError
from steelyard.plan.lending import BLOCK_SIZE
from steelyard.reproduce import s34


def test_the_longest_request_is_there_and_none_is_longer() -> None:
    found = s34.drawn(100, 50_000, 0)
    assert len(found) == 100
    assert max(one.num_prompt_tokens for one in found) == 50_000
    assert found == s34.drawn(100, 50_000, 0) != s34.drawn(100, 50_000, 1)


def test_static_engines_are_the_smallest_that_hold_the_longest() -> None:
    small = s34.pool("llama-2-7b", 1, "none")
    assert small.count == 32
    assert s34.static_pool("llama-2-7b", 1, small.num_blocks) == small
    assert s34.static_pool("llama-2-7b", 1, small.num_blocks + 1).count == 16
    with pytest.raises(InputError, match="do not fit"):
        s34.static_pool("llama-2-7b", 1, 10**9 // BLOCK_SIZE)


def test_rows_tell_reach_and_throughput() -> None:
    reach, *rates = s34.model_rows("llama-2-70b", 8, 20, 0)
    assert reach.ratio == 4.0
    assert len(rates) == 4
    assert all("tokens/s against" in row.ours and row.ratio is not None and row.ratio > 0 for row in rates)
