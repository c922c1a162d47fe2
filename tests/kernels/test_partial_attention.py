"""Attention by parts against float64 attention over all keys at once: any split, any order, parts without keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.kernels.partial_attention import PartialAttention, attend_part, merge

NO_KEY = float("-inf")


def spec_of(
    kv_heads: int = 2, group: int = 2, window: int | None = None, softcap: float | None = None
) -> AttentionSpec:
    return AttentionSpec(
        layer=0,
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        head_dim=8,
        scale=8**-0.5,
        window=window,
        softcap=softcap,
    )


def parts_of(spec, q, k, v, owners: list[int], num_parts: int) -> list[PartialAttention]:
    """Attend to each owner's keys, the last one's first; the queries are the last positions."""
    at = torch.arange(len(k) - len(q), len(k))
    parts = []
    for owner in range(num_parts):
        held = torch.tensor([i for i, one in enumerate(owners) if one == owner], dtype=torch.int64).flip(0)
        parts.append(attend_part(spec, q, k[held], v[held], query_positions=at, key_positions=held))
    return parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_merged_are_the_whole(dtype, data):
    """Keys are dealt out at random, so parts are scattered, and some have no key or none that a query sees."""
    spec = spec_of(
        kv_heads=data.draw(st.sampled_from([1, 2])),
        group=data.draw(st.sampled_from([1, 3])),
        window=data.draw(st.sampled_from([None, 1, 5])),
        softcap=data.draw(st.sampled_from([None, 2.0])),
    )
    context, num_parts = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    num_queries = data.draw(st.integers(1, context))
    torch.manual_seed(data.draw(st.integers(0, 1 << 20)))
    q = (3 * torch.randn(num_queries, spec.num_heads, 8)).to(dtype)
    k, v = (torch.randn(context, spec.num_kv_heads, 8).to(dtype) for _ in range(2))
    owners = data.draw(st.lists(st.integers(0, num_parts - 1), min_size=context, max_size=context))
    parts = parts_of(spec, q, k, v, owners, num_parts)
    whole = merge(data.draw(st.permutations(parts)))
    expected = attention_reference(spec, q.double(), k.double(), v.double())
    assert whole.out.dtype is torch.float32
    torch.testing.assert_close(whole.out.double(), expected, rtol=1e-5, atol=5e-6)


def test_by_hand():
    """Scores 0 and ln 3 weigh the values 1 and 5 as 1 : 3."""
    spec = AttentionSpec(layer=0, num_heads=1, num_kv_heads=1, head_dim=1, scale=1.0)
    keys, values = torch.tensor([1.0, 3.0]).log().view(2, 1, 1, 1), torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    at = torch.arange(2)
    first, second = (
        attend_part(spec, torch.ones(1, 1, 1), keys[i], values[i], query_positions=at[1:], key_positions=at[i : i + 1])
        for i in (0, 1)
    )
    assert (first.out.item(), second.out.item()) == (1.0, 5.0)
    both = merge([first, second])
    assert both.out.item() == pytest.approx(4.0)
    assert both.lse.exp().item() == pytest.approx(4.0)


def test_a_part_without_visible_keys_changes_nothing_bit_for_bit():
    spec = spec_of()
    q, k, v = torch.randn(3, 4, 8), torch.randn(6, 2, 8), torch.randn(6, 2, 8)
    at = torch.arange(3, 6)
    whole = attend_part(spec, q, k, v, query_positions=at, key_positions=torch.arange(6))
    nothing = attend_part(spec, q, k[:0], v[:0], query_positions=at, key_positions=torch.arange(0))
    future = attend_part(spec, q, k, v, query_positions=at, key_positions=torch.arange(6, 12))
    for part in (nothing, future):
        assert bool((part.out == 0).all())
        assert bool((part.lse == NO_KEY).all())
        merged = merge([part, whole, part])
        assert torch.equal(merged.out, merge([whole]).out)
        assert torch.equal(merged.lse, whole.lse)
    empty = merge([nothing, future])
    assert bool((empty.out == 0).all())
    assert bool((empty.lse == NO_KEY).all())


def test_merging_is_associative_within_rounding():
    spec = spec_of()
    q, k, v = torch.randn(2, 4, 8), torch.randn(30, 2, 8), torch.randn(30, 2, 8)
    one, two, three = parts_of(spec, q, k, v, [i % 3 for i in range(30)], 3)
    left, right = merge([merge([one, two]), three]), merge([one, merge([two, three])])
    torch.testing.assert_close(left.out, right.out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(left.lse, right.lse, rtol=1e-5, atol=1e-6)


def test_large_scores_neither_overflow_nor_vanish():
    spec = spec_of(kv_heads=1, group=1)
    q, k, v = torch.full((1, 1, 8), 300.0), torch.randn(20, 1, 8), torch.randn(20, 1, 8)
    whole = merge(parts_of(spec, q, k, v, [i % 2 for i in range(20)], 2))
    torch.testing.assert_close(whole.out.double(), attention_reference(spec, q.double(), k.double(), v.double()))
