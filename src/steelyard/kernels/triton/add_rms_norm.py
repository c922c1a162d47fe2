"""The residual stream's sum and its root-mean-square norm in one pass (see :mod:`steelyard.kernels.rms_norm`).

Rounded as the separate operations are: the sum to the dtype of ``x``, the norm in float32 and to that dtype before the
weight. A program holds a whole row, so a row's bits do not depend on the others. Not here: gradients, LayerNorm.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from steelyard.kernels.rms_norm import rms_norm_reference
from steelyard.kernels.triton.launch import SAME_BITS, next_power_of_two


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``total = x + residual`` and its norm scaled by ``weight``, two new tensors like ``x``.

    Args:
        x: ``[rows, hidden]``, dense; float32, bfloat16 or float16.
        residual: like ``x``.
        weight: ``[hidden]``.
        eps: added to the mean of squares.
    """
    assert x.is_contiguous()
    assert residual.is_contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    rows, hidden = x.shape
    if rows:
        size = next_power_of_two(hidden)
        _add_rms_norm_kernel[(rows,)](
            x, residual, weight, total, normed, hidden, eps,
            SIZE=size, num_warps=min(16, max(1, size // 512)), **SAME_BITS,
        )  # fmt: skip
    return total, normed


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what :func:`add_rms_norm` does in the plainest way, computed in the dtype of ``x``."""
    total = x + residual
    return total, rms_norm_reference(total, weight, eps)


@triton.jit
def _add_rms_norm_kernel(x, residual, weight, total, normed, hidden, eps, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    real = at < hidden
    row = tl.program_id(0).to(tl.int64) * hidden
    here = tl.load(x + row + at, mask=real, other=0.0)
    there = tl.load(residual + row + at, mask=real, other=0.0)
    both = (here.to(tl.float32) + there.to(tl.float32)).to(here.dtype)
    tl.store(total + row + at, both, mask=real)
    wide = both.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / hidden + eps)
    factor = tl.load(weight + at, mask=real, other=0.0).to(here.dtype)
    out = (wide * scale).to(here.dtype).to(tl.float32) * factor.to(tl.float32)
    tl.store(normed + row + at, out.to(here.dtype), mask=real)
