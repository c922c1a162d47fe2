"""Prompts begin alike exactly where their trace says so."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.units import ceil_div
from steelyard.sim.prompts import VOCABULARY, prompt_tokens
from steelyard.sim.traces.types import HASH_BLOCK_TOKENS, TraceRequest


@given(number=st.integers(0, 1 << 40), size=st.integers(1, 3000), other=st.integers(0, 1 << 40))
def test_prompts_of_unknown_content_differ_from_their_first_block_on(number: int, size: int, other: int) -> None:
    one = prompt_tokens(number, TraceRequest(0.0, size, 1))
    assert len(one) == size
    assert 0 <= min(one) <= max(one) < VOCABULARY
    assert number == other or one[:16] != prompt_tokens(other, TraceRequest(0.0, 16, 1))


@given(hash_ids=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=4), cut=st.integers(0, HASH_BLOCK_TOKENS - 1))
def test_equal_hashes_are_equal_tokens(hash_ids: list[int], cut: int) -> None:
    size = len(hash_ids) * HASH_BLOCK_TOKENS - cut
    request = TraceRequest(0.0, size, 1, tuple(hash_ids[: ceil_div(size, HASH_BLOCK_TOKENS)]))
    tokens = prompt_tokens(0, request)
    assert tokens == prompt_tokens(1, request)
    assert len(tokens) == size
    changed = request._replace(hash_ids=(*hash_ids[:-1], hash_ids[-1] + 1))
    other = prompt_tokens(0, changed)
    shared = (len(hash_ids) - 1) * HASH_BLOCK_TOKENS
    assert tokens[:shared] == other[:shared]
    assert tokens[shared] != other[shared]
