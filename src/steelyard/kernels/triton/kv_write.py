"""Writing a step's keys and values into the paged cache, by themselves or while queries and keys are rotated.

The rotation pairs element ``i`` of a head with ``i + dim/2``, as :func:`steelyard.models.rope.rotate` does, but
computes in float32 and rounds once, so in 16 bits it is a little nearer to the truth than the separate operations.

Not here: quantised keys and values, other pairings.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from steelyard.kernels.triton.launch import SAME_BITS, next_power_of_two

NO_SLOT = -1
"""In a device's array of slots: this row is padding, write nothing."""


def write_kv(k: Tensor, v: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Copy rows of ``k`` and ``v`` to their slots.

    Args:
        k: ``[tokens, num_kv_heads, head_dim]``, dense heads.
        v: as ``k``.
        slots: int64 ``[tokens]`` or fewer: rows past its end are padding, as are those with :data:`NO_SLOT`.
        keys: ``[slots, num_kv_heads · head_dim]``, changed in place; dtype of ``k``.
        values: as ``keys``.
    """
    assert slots.is_contiguous()
    width = keys.shape[1]
    if len(slots):
        _write_kernel[(len(slots),)](
            k, v, slots, keys, values, k.stride(0), v.stride(0),
            WIDTH=width, SIZE=next_power_of_two(width), **SAME_BITS,
        )  # fmt: skip


def rotate_and_write_kv(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Rotate ``q`` in place, and write ``k`` rotated and ``v`` as it is to their slots.

    Args (besides those of :func:`write_kv`):
        q: ``[tokens, num_heads, head_dim]``, dense heads, changed in place; rows past ``slots`` stay as they are.
        cos: ``[tokens, dim]``, dense, for the first ``dim`` elements of each head.
        sin: as ``cos``, negative in the first half.
    """
    assert slots.is_contiguous()
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    num_heads, num_kv_heads, head_dim = q.shape[1], k.shape[1], q.shape[2]
    if len(slots):
        _rotate_and_write_kernel[(len(slots), num_heads + num_kv_heads)](
            q, k, v, cos, sin, slots, keys, values, q.stride(0), k.stride(0), v.stride(0), num_heads, keys.shape[1],
            HEAD_DIM=head_dim, ROTATED=cos.shape[-1], SIZE=next_power_of_two(head_dim), num_warps=1, **SAME_BITS,
        )  # fmt: skip


@triton.jit
def _write_kernel(k, v, slots, keys, values, k_stride, v_stride, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    at = tl.arange(0, SIZE)
    real = at < WIDTH
    tl.store(keys + slot * WIDTH + at, tl.load(k + row * k_stride + at, mask=real), mask=real)
    tl.store(values + slot * WIDTH + at, tl.load(v + row * v_stride + at, mask=real), mask=real)


@triton.jit
def _rotated(head, cos, sin, at, HEAD_DIM: tl.constexpr, ROTATED: tl.constexpr):
    """Return the head's elements ``at``, float32, the first ``ROTATED`` of them turned."""
    turns = at < ROTATED
    partner = tl.where(at < ROTATED // 2, at + ROTATED // 2, at - ROTATED // 2)
    x = tl.load(head + at, mask=at < HEAD_DIM, other=0.0).to(tl.float32)
    other = tl.load(head + partner, mask=turns, other=0.0).to(tl.float32)
    c = tl.load(cos + at, mask=turns, other=1.0).to(tl.float32)
    s = tl.load(sin + at, mask=turns, other=0.0).to(tl.float32)
    return x * c + other * s


@triton.jit
def _rotate_and_write_kernel(
    q, k, v, cos, sin, slots, keys, values, q_stride, k_stride, v_stride, num_heads, width,
    HEAD_DIM: tl.constexpr, ROTATED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    at = tl.arange(0, SIZE)
    real = at < HEAD_DIM
    turn_cos, turn_sin = cos + row * ROTATED, sin + row * ROTATED
    if head < num_heads:
        query = q + row * q_stride + head * HEAD_DIM
        turned = _rotated(query, turn_cos, turn_sin, at, HEAD_DIM, ROTATED)
        tl.debug_barrier()  # every element's partner is read before any is overwritten
        tl.store(query + at, turned.to(q.dtype.element_ty), mask=real)
    else:
        offset = (head - num_heads) * HEAD_DIM
        place = slot * width + offset
        turned = _rotated(k + row * k_stride + offset, turn_cos, turn_sin, at, HEAD_DIM, ROTATED)
        tl.store(keys + place + at, turned.to(keys.dtype.element_ty), mask=real)
        value = tl.load(v + row * v_stride + offset + at, mask=real)
        tl.store(values + place + at, value, mask=real)
