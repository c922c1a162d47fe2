"""Paged attention in Triton: both forms against the reference in float64, and bits that depend on nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelyard.core.units import ceil_div
from steelyard.kernels.attention import AttentionSpec, attention_reference

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.kernels.triton.paged_attention import (
    SEGMENT,
    PagedContext,
    attend_split,
    attend_whole,
    num_segments,
    queries_per_tile,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def make_spec(
    group: int, kv_heads: int, head_dim: int, window: int | None = None, softcap: float | None = None
) -> AttentionSpec:
    return AttentionSpec(
        layer=0, num_heads=group * kv_heads, num_kv_heads=kv_heads, head_dim=head_dim, scale=head_dim**-0.5,
        window=window, softcap=softcap,
    )  # fmt: skip


def paged(k: Tensor, v: Tensor, block_size: int) -> PagedContext:
    """Return ``k`` and ``v`` ``[tokens, heads, dim]`` scattered over blocks; all other slots are NaN."""
    tokens, width = k.shape[0], k.shape[1] * k.shape[2]
    num_blocks = ceil_div(tokens, block_size)
    table = torch.randperm(num_blocks + 3, device=k.device)[:num_blocks]
    positions = torch.arange(tokens, device=k.device)
    slots = table[positions // block_size] * block_size + positions % block_size
    stores = []
    for part in (k, v):
        store = torch.full(((num_blocks + 3) * block_size, width), float("nan"), dtype=k.dtype, device=k.device)
        store[slots] = part.reshape(tokens, width)
        stores.append(store)
    return PagedContext(*stores, block_size, table[None].int())


def tiles_of(queries: int, context: int, step: int) -> Tensor:
    rows = [[row, min(step, queries - row), context - queries + row, 0] for row in range(0, queries, step)]
    return torch.tensor(rows, dtype=torch.int32, device=DEVICE).view(-1, 4)


def whole(spec: AttentionSpec, q: Tensor, context: PagedContext, tiles: Tensor) -> Tensor:
    out = torch.zeros_like(q)
    attend_whole(spec, q, context, tiles, out)
    return out


def split(spec: AttentionSpec, q: Tensor, context: PagedContext, tiles: Tensor, segments: int) -> Tensor:
    out = torch.zeros_like(q)
    attend_split(spec, q, context, tiles, out, segments)
    return out


def random_qkv(
    spec: AttentionSpec, queries: int, context: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, spec.num_heads), (context, spec.num_kv_heads), (context, spec.num_kv_heads))
    q, k, v = (torch.randn(*shape, spec.head_dim, generator=generator).to(DEVICE, dtype) for shape in shapes)
    return q, k, v


@settings(max_examples=25)
@given(
    queries=st.integers(1, 70),
    past=st.sampled_from([0, 1, 63, 64, 200, 260]),
    group=st.sampled_from([1, 3, 8]),
    kv_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([8, 16, 24, 64]),
    window=st.sampled_from([None, 1, 5, 64, 100]),
    softcap=st.sampled_from([None, 20.0]),
    block_size=st.sampled_from([1, 4, 16, 100]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_whole_form_equals_the_float64_reference(
    queries: int,
    past: int,
    group: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    softcap: float | None,
    block_size: int,
    dtype: torch.dtype,
) -> None:
    spec = make_spec(group, kv_heads, head_dim, window, softcap)
    q, k, v = random_qkv(spec, queries, past + queries, dtype)
    out = whole(spec, q, paged(k, v, block_size), tiles_of(queries, past + queries, queries_per_tile(spec)))
    expected = attention_reference(spec, q.double(), k.double(), v.double())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=TOLERANCE[dtype])


@settings(max_examples=15)
@given(
    context=st.sampled_from([1, 2, 64, 255, 256, 257, 600]),
    group=st.sampled_from([1, 4, 5]),
    window=st.sampled_from([None, 1, 70, 300]),
    softcap=st.sampled_from([None, 20.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    spare_segments=st.sampled_from([0, 2]),
)
def test_split_form_equals_the_float64_reference_and_the_whole_form_to_the_bit(
    context: int, group: int, window: int | None, softcap: float | None, dtype: torch.dtype, spare_segments: int
) -> None:
    spec = make_spec(group, 2, 16, window, softcap)
    q, k, v = random_qkv(spec, 1, context, dtype)
    store, tiles = paged(k, v, 16), tiles_of(1, context, 1)
    out = split(spec, q, store, tiles, num_segments(context) + spare_segments)
    expected = attention_reference(spec, q.double(), k.double(), v.double())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert torch.equal(out, whole(spec, q, store, tiles))


def test_a_sequence_keeps_its_bits_in_company_and_padding_writes_nothing() -> None:
    spec = make_spec(2, 2, 16)
    contexts = (1, 300, 40)
    parts = [random_qkv(spec, 1, context, torch.float32, seed=context) for context in contexts]
    alone = [split(spec, q, paged(k, v, 16), tiles_of(1, len(k), 1), num_segments(len(k)))[0] for q, k, v in parts]
    stores = [paged(k, v, 16) for _, k, v in parts]
    offsets = [0, len(stores[0].keys), len(stores[0].keys) + len(stores[1].keys)]
    tables = torch.zeros(3, max(store.tables.shape[1] for store in stores), dtype=torch.int32, device=DEVICE)
    for row, (store, offset) in enumerate(zip(stores, offsets, strict=True)):
        tables[row, : store.tables.shape[1]] = store.tables[0] + offset // 16
    together = PagedContext(
        torch.cat([store.keys for store in stores]), torch.cat([store.values for store in stores]), 16, tables
    )
    q = torch.cat([q for q, _, _ in parts] + [torch.full_like(parts[0][0], float("nan"))])
    tiles = [[row, 1, context - 1, row] for row, context in enumerate(contexts)]
    out = torch.full_like(q, 7.0)
    attend_split(spec, q, together, torch.tensor([[3, 0, 0, 0], *tiles], dtype=torch.int32, device=DEVICE), out, 3)
    for row in range(3):
        assert torch.equal(out[row], alone[row])
    assert torch.equal(out[3], torch.full_like(out[3], 7.0))
    attend_whole(spec, q, together, torch.tensor([[3, 0, 0, 0]], dtype=torch.int32, device=DEVICE), out)
    assert torch.equal(out[3], torch.full_like(out[3], 7.0))


def test_no_tiles_is_no_work() -> None:
    spec = make_spec(1, 1, 16)
    q, k, v = random_qkv(spec, 0, 1, torch.float32)
    none = torch.zeros(0, 4, dtype=torch.int32, device=DEVICE)
    assert whole(spec, q, paged(k, v, 4), none).shape == split(spec, q, paged(k, v, 4), none, 1).shape == q.shape


def test_a_group_larger_than_a_tile_widens_the_tile() -> None:
    spec = make_spec(71, 1, 8)
    assert queries_per_tile(spec) == 1
    q, k, v = random_qkv(spec, 2, 5, torch.float32)
    out = whole(spec, q, paged(k, v, 4), tiles_of(2, 5, 1))
    torch.testing.assert_close(
        out.double(), attention_reference(spec, q.double(), k.double(), v.double()), rtol=0, atol=1e-5
    )


def test_fused_projections_rows_are_read_in_place() -> None:
    """Queries are a view of wider rows."""
    spec = make_spec(2, 1, 16)
    q, k, v = random_qkv(spec, 3, 9, torch.float32)
    wide = torch.cat((q.flatten(1), torch.full((3, 40), float("nan"), device=DEVICE)), dim=1)
    view = wide[:, :32].unflatten(-1, (2, 16))
    out = torch.zeros_like(q)
    attend_whole(spec, view, paged(k, v, 4), tiles_of(3, 9, 32), out)
    assert torch.equal(out, whole(spec, q, paged(k, v, 4), tiles_of(3, 9, 32)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("group", "head_dim", "window"), [(1, 128, None), (4, 128, 700), (8, 256, None), (3, 64, 100)])
def test_bits_do_not_depend_on_the_cut_of_a_prompt(
    dtype: torch.dtype, group: int, head_dim: int, window: int | None
) -> None:
    """Compiled only: the interpreter multiplies by the CPU's BLAS, whose rows depend on their place."""
    spec = make_spec(group, 2, head_dim, window)
    context = 4 * SEGMENT + 77
    q, k, v = random_qkv(spec, context, context, dtype)
    store = paged(k, v, 16)
    expected = whole(spec, q, store, tiles_of(context, context, queries_per_tile(spec)))
    assert torch.equal(whole(spec, q, store, tiles_of(context, context, 5)), expected)
    ones = tiles_of(context, context, 1)
    assert torch.equal(split(spec, q, store, ones, num_segments(context)), expected)
