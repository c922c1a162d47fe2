"""What all kernels share: launch options, sizes, and the matrix product."""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from steelyard.kernels.triton_available import triton_interpreted

# Launch options of every kernel: no contraction of multiply and add, which the compiler would choose kernel by kernel,
# so that two forms of one sum come out alike. (The default also differs between versions of Triton.)
SAME_BITS: Mapping[str, bool] = {"enable_fp_fusion": False}

MIN_DOT = 16
"""Smallest side of a matrix product."""

_INTERPRETED = tl.constexpr(triton_interpreted())


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least ``number`` (≥ 1): Triton's ranges have such lengths only."""
    return 1 << (number - 1).bit_length()


@triton.jit
def product(a, b):
    """Return ``a @ b`` in float32; products of float32 operands are exact in float32, not cut to TF32."""
    if _INTERPRETED:  # it would multiply the bit patterns of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")
