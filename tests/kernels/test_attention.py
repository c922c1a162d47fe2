"""Attention: the working form against the plain reference in float64, over shapes, windows, caps and groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels.attention import MASKED, AttentionSpec, additive_mask, attention_reference, padded_attention


def make_spec(heads: int, kv_heads: int, head_dim: int, window: int | None, softcap: float | None) -> AttentionSpec:
    return AttentionSpec(
        layer=0, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, scale=head_dim**-0.5, window=window,
        softcap=softcap,
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    queries=st.integers(1, 9),
    past=st.integers(0, 40),
    padding=st.integers(0, 17),
    group=st.sampled_from([1, 2, 3, 4]),
    kv_heads=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 1, 5, 16]),
    softcap=st.sampled_from([None, 20.0]),
    seed=st.integers(0, 1000),
)
def test_padded_attention_equals_the_float64_reference(
    queries: int,
    past: int,
    padding: int,
    group: int,
    kv_heads: int,
    window: int | None,
    softcap: float | None,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spec = make_spec(group * kv_heads, kv_heads, 16, window, softcap)
    context = past + queries
    q = torch.randn(queries, spec.num_heads, 16, generator=generator)
    k, v = (torch.randn(context + padding, kv_heads, 16, generator=generator) for _ in range(2))
    mask = additive_mask(torch.arange(past, context)[None], context + padding, window, torch.float32)
    out = padded_attention(spec, q[None], k[None], v[None], mask)[0]
    expected = attention_reference(spec, q.double(), k[:context].double(), v[:context].double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_query_keeps_its_bits_whatever_stands_beside_it() -> None:
    spec = make_spec(9, 3, 64, None, None)
    k, v = torch.randn(3, 1056, 3, 64), torch.randn(3, 1056, 3, 64)
    q, positions = torch.randn(3, 96, 9, 64), torch.arange(900, 996).expand(3, 96)
    mask = additive_mask(positions, 1056, None, torch.float32)
    whole = padded_attention(spec, q, k, v, mask)
    for rows, keys in [(slice(0, 1), 912), (slice(5, 6), 912), (slice(7, 64), 976), (slice(40, 96), 1008)]:
        part = padded_attention(spec, q[1:2, rows], k[1:2, :keys], v[1:2, :keys], mask[1:2, rows, :keys])
        assert torch.equal(part[0], whole[1, rows])


def test_mask_shows_the_past_within_the_window_only() -> None:
    mask = additive_mask(torch.tensor([[4]]), 8, 3, torch.float32)[0, 0]
    assert mask.tolist() == pytest.approx([MASKED, MASKED, 0, 0, 0, MASKED, MASKED, MASKED])
    assert torch.isfinite(additive_mask(torch.tensor([[4]]), 8, None, torch.float16)).all()
