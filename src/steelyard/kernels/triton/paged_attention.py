"""Causal attention of packed queries over a paged KV cache (flash attention, Dao, arXiv:2307.08691; split over the
context as flash-decoding does), with grouped heads, sliding window and soft cap. Its reference is
:func:`steelyard.kernels.attention.attention_reference`.

Work is cut into *query tiles*: up to :func:`queries_per_tile` consecutive positions of one sequence, all query heads of
one key/value head together as rows of one matrix. A tile walks its context in key tiles of :data:`KEY_TILE`; key tiles
that no row may see, before the window or after the last query, are skipped whole, so no queries × keys mask exists.

The context is cut into *segments* of :data:`SEGMENT` tokens. Each segment is attended by itself, and segments are
merged in order. Two forms do the same arithmetic: in the ``whole`` form a program walks all segments of its tile and
merges as it goes (many queries); in the ``split`` form a program takes one segment and a second kernel merges (one
query, where a program per tile would leave the device idle). Segments and key tiles begin at fixed positions, a masked
key adds exactly nothing, and both forms use the same tile shape; so a query's bits depend on its own sequence alone:
not on the form, nor on the chunk it was computed in, nor on its neighbours.

Not here: keys and values in 8 bits, attention sinks, gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from steelyard.core.units import ceil_div
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.triton.launch import MIN_DOT, SAME_BITS, next_power_of_two, product

SEGMENT = 256
KEY_TILE = 64
TILE_FIELDS = 4
_ROWS = 64
_LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True, slots=True)
class PagedContext:
    """One layer's keys and values of a step's sequences.

    Attributes:
        keys: ``[slots, num_kv_heads · head_dim]``, dense; slot is block number · block size + offset.
        values: as ``keys``.
        block_size: tokens per block.
        tables: int32 ``[sequences, blocks]``, dense rows; what stands past a sequence's context is not read.
    """

    keys: Tensor
    values: Tensor
    block_size: int
    tables: Tensor


def queries_per_tile(spec: AttentionSpec) -> int:
    """Return how many queries of one sequence fit in a tile."""
    return _tile_rows(spec) // (spec.num_heads // spec.num_kv_heads)


def num_segments(context: int) -> int:
    """Return the segments that ``context`` tokens span."""
    return ceil_div(context, SEGMENT)


def attend_whole(spec: AttentionSpec, q: Tensor, context: PagedContext, tiles: Tensor, out: Tensor) -> None:
    """Attend tiles of up to :func:`queries_per_tile` queries, a program per tile and key/value head.

    Args:
        spec: the layer's attention.
        q: ``[tokens, num_heads, head_dim]``, dense heads; float32, bfloat16 or float16, as keys and values.
        context: keys of all positions up to each tile's last query.
        tiles: int32 ``[tiles, 4]``, dense: row of the first query in ``q``, number of queries, position of the first,
            row of its block table. A tile of no queries is padding.
        out: like ``q``; the rows of the tiles are written, others left as they are.
    """
    _check(q, context, tiles, out)
    if len(tiles) == 0:
        return
    _whole_kernel[(len(tiles), spec.num_kv_heads)](
        q, context.keys, context.values, context.tables, tiles, out,
        q.stride(0), out.stride(0), context.tables.stride(0), spec.scale,
        **_shape(spec, context.block_size), **SAME_BITS,
    )  # fmt: skip


def attend_split(
    spec: AttentionSpec, q: Tensor, context: PagedContext, tiles: Tensor, out: Tensor, max_segments: int
) -> None:
    """Attend tiles of one query, a program per tile, key/value head and segment; then merge the segments.

    Args as of :func:`attend_whole`, and:
        max_segments: at least :func:`num_segments` of the longest context; more changes no bits.
    """
    _check(q, context, tiles, out)
    count = len(tiles)
    if count == 0:
        return
    parts = q.new_empty((count, spec.num_heads, max_segments, spec.head_dim), dtype=torch.float32)
    stats = q.new_empty((count, spec.num_heads, max_segments, 2), dtype=torch.float32)
    _split_kernel[(count, spec.num_kv_heads, max_segments)](
        q, context.keys, context.values, context.tables, tiles, parts, stats,
        q.stride(0), context.tables.stride(0), spec.scale, max_segments,
        **_shape(spec, context.block_size), **SAME_BITS,
    )  # fmt: skip
    _merge_kernel[(count, spec.num_heads)](
        parts, stats, tiles, out, out.stride(0), max_segments,
        HEAD_DIM=spec.head_dim, DIM=_padded_dim(spec), WINDOW=spec.window, SEGMENT_=SEGMENT, num_warps=1, **SAME_BITS,
    )  # fmt: skip


def _check(q: Tensor, context: PagedContext, tiles: Tensor, out: Tensor) -> None:
    """Assert the layouts that kernels take for granted."""
    assert tiles.is_contiguous()
    assert context.keys.is_contiguous()
    assert context.values.is_contiguous()
    assert context.tables.stride(1) == 1
    for heads in (q, out):
        assert heads.stride(2) == 1
        assert heads.shape[1] == 1 or heads.stride(1) == heads.shape[2]


def _tile_rows(spec: AttentionSpec) -> int:
    return max(_ROWS, next_power_of_two(spec.num_heads // spec.num_kv_heads))


def _padded_dim(spec: AttentionSpec) -> int:
    return max(MIN_DOT, next_power_of_two(spec.head_dim))


def _shape(spec: AttentionSpec, block_size: int) -> dict[str, object]:
    """Return the compile-time arguments of both forms. They are the same in both: tile shapes decide bits."""
    return {
        "HEADS_KV": spec.num_kv_heads,
        "GROUP": spec.num_heads // spec.num_kv_heads,
        "HEAD_DIM": spec.head_dim,
        "DIM": _padded_dim(spec),
        "ROWS": _tile_rows(spec),
        "BLOCK": block_size,
        "WINDOW": spec.window,
        "SOFTCAP": spec.softcap,
        "SEGMENT_": SEGMENT,
        "KEYS": KEY_TILE,
        "num_warps": 4 if spec.head_dim <= 128 else 8,
        "num_stages": 2,
    }


@triton.jit
def _load_tile(tiles, index):
    """Return row, queries, position and block table of tile ``index``."""
    entry = tiles + index * 4
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)


@triton.jit
def _first_segment(position, WINDOW: tl.constexpr, SEGMENT_: tl.constexpr):
    """Return the first segment that the query at ``position`` sees anything of."""
    first = 0
    if WINDOW is not None:
        first = tl.maximum(position - WINDOW + 1, 0) // SEGMENT_
    return first


@triton.jit
def _load_queries(
    q, q_stride, row, num_queries, head, HEADS_KV: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Return the tile's queries ``[ROWS, DIM]``: row r is query r // GROUP, head r % GROUP of the group."""
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    place = (row + rows // GROUP).to(tl.int64) * q_stride + (head * GROUP + rows % GROUP) * HEAD_DIM
    real = (rows // GROUP < num_queries)[:, None] & (dims < HEAD_DIM)[None, :]
    return tl.load(q + place[:, None] + dims[None, :], mask=real, other=0.0)


@triton.jit
def _attend_segment(
    queries, keys, values, table, segment, head, position, num_queries, scale,
    HEADS_KV: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SEGMENT_: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Return the segment's unnormalised output ``[ROWS, DIM]``, largest score (base 2) and sum of weights ``[ROWS]``.

    A row that sees nothing of the segment has largest score −∞, sum 0 and output 0.
    """
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    at = position + rows // GROUP
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, DIM], tl.float32)
    begin = segment * SEGMENT_
    if WINDOW is not None:
        begin = tl.maximum(begin, (position - WINDOW + 1) // KEYS * KEYS)
    end = tl.minimum((segment + 1) * SEGMENT_, position + num_queries)
    for start in range(begin, end, KEYS):
        key_at = start + tl.arange(0, KEYS)
        exists = key_at < end
        block = tl.load(table + key_at // BLOCK, mask=exists, other=0)
        slot = block.to(tl.int64) * BLOCK + key_at % BLOCK
        place = slot * (HEADS_KV * HEAD_DIM) + head * HEAD_DIM
        k = tl.load(keys + place[None, :] + dims[:, None], mask=exists[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
        scores = product(queries, k) * scale
        if SOFTCAP is not None:
            scores = SOFTCAP * (2.0 * tl.sigmoid(2.0 * (scores / SOFTCAP)) - 1.0)
        seen = (key_at[None, :] <= at[:, None]) & exists[None, :]
        if WINDOW is not None:
            seen = seen & (key_at[None, :] > at[:, None] - WINDOW)
        scores = tl.where(seen, scores * _LOG2_E, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - finite[:, None])
        shrink = tl.exp2(peak - finite)
        v = tl.load(
            values + place[:, None] + dims[None, :], mask=exists[:, None] & (dims < HEAD_DIM)[None, :], other=0.0
        )
        out = out * shrink[:, None] + product(weights.to(v.dtype), v)
        total = total * shrink + tl.sum(weights, 1)
        peak = higher
    return out, peak, total


@triton.jit
def _merged(out, peak, total, part, part_peak, part_total):
    """Return the outputs ``[rows, dim]``, largest scores and sums ``[rows]`` of two stretches of context together.

    A part whose largest score is −∞ changes no bit.
    """
    higher = tl.maximum(peak, part_peak)
    finite = tl.where(higher == float("-inf"), 0.0, higher)
    keep, add = tl.exp2(peak - finite), tl.exp2(part_peak - finite)
    return out * keep[:, None] + part * add[:, None], higher, total * keep + part_total * add


@triton.jit
def _whole_kernel(
    q, keys, values, tables, tiles, out, q_stride, out_stride, table_stride, scale,
    HEADS_KV: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SEGMENT_: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row, num_queries, position, which = _load_tile(tiles, tl.program_id(0))
    if num_queries == 0:
        return
    queries = _load_queries(q, q_stride, row, num_queries, head, HEADS_KV, GROUP, HEAD_DIM, DIM, ROWS)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, DIM], tl.float32)
    last = (position + num_queries - 1) // SEGMENT_
    for segment in range(_first_segment(position, WINDOW, SEGMENT_), last + 1):
        part, part_peak, part_total = _attend_segment(
            queries, keys, values, tables + which.to(tl.int64) * table_stride, segment, head, position, num_queries,
            scale, HEADS_KV, GROUP, HEAD_DIM, DIM, ROWS, BLOCK, WINDOW, SOFTCAP, SEGMENT_, KEYS,
        )  # fmt: skip
        result, peak, total = _merged(result, peak, total, part, part_peak, part_total)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    real = (rows // GROUP < num_queries)[:, None] & (dims < HEAD_DIM)[None, :]
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    place = (row + rows // GROUP).to(tl.int64) * out_stride + (head * GROUP + rows % GROUP) * HEAD_DIM
    tl.store(out + place[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=real)


@triton.jit
def _split_kernel(
    q, keys, values, tables, tiles, parts, stats, q_stride, table_stride, scale, max_segments,
    HEADS_KV: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SEGMENT_: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, num_queries, position, which = _load_tile(tiles, tile)
    if num_queries == 0:
        return
    if (segment < _first_segment(position, WINDOW, SEGMENT_)) | (segment > position // SEGMENT_):
        return
    queries = _load_queries(q, q_stride, row, num_queries, head, HEADS_KV, GROUP, HEAD_DIM, DIM, ROWS)
    part, peak, total = _attend_segment(
        queries, keys, values, tables + which.to(tl.int64) * table_stride, segment, head, position, num_queries,
        scale, HEADS_KV, GROUP, HEAD_DIM, DIM, ROWS, BLOCK, WINDOW, SOFTCAP, SEGMENT_, KEYS,
    )  # fmt: skip
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIM)
    place = ((tile * HEADS_KV + head) * GROUP + rows).to(tl.int64) * max_segments + segment
    tl.store(
        parts + place[:, None] * HEAD_DIM + dims[None, :], part,
        mask=(rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :],
    )  # fmt: skip
    tl.store(stats + place * 2, peak, mask=rows < GROUP)
    tl.store(stats + place * 2 + 1, total, mask=rows < GROUP)


@triton.jit
def _merge_kernel(
    parts, stats, tiles, out, out_stride, max_segments,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, WINDOW: tl.constexpr, SEGMENT_: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    row, num_queries, position, _ = _load_tile(tiles, tile)
    if num_queries == 0:
        return
    dims, one = tl.arange(0, DIM), tl.arange(0, 1)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    result = tl.zeros([1, DIM], tl.float32)
    base = (tile * tl.num_programs(1) + head).to(tl.int64) * max_segments
    for segment in range(_first_segment(position, WINDOW, SEGMENT_), position // SEGMENT_ + 1):
        place = base + segment + one
        part = tl.load(parts + place[:, None] * HEAD_DIM + dims[None, :], mask=(dims < HEAD_DIM)[None, :], other=0.0)
        part_peak, part_total = tl.load(stats + place * 2), tl.load(stats + place * 2 + 1)
        result, peak, total = _merged(result, peak, total, part, part_peak, part_total)
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    place = row.to(tl.int64) * out_stride + head * HEAD_DIM
    tl.store(out + place + dims[None, :], result.to(out.dtype.element_ty), mask=(dims < HEAD_DIM)[None, :])
