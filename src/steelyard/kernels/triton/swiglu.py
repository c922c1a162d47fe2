"""``silu(gate) · up`` of one fused projection, in one pass (Shazeer, arXiv:2002.05202).

Rounded as the separate operations are: ``silu`` in float32 and to the dtype before the product. Not here: gradients,
other activations.
"""

from __future__ import annotations

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from steelyard.core.units import ceil_div
from steelyard.kernels.triton.launch import SAME_BITS

_SIZE = 1024


def swiglu(gate_up: Tensor) -> Tensor:
    """Return ``[rows, size]`` of ``gate_up`` ``[rows, 2 · size]``, dense; float32, bfloat16 or float16."""
    assert gate_up.is_contiguous()
    rows, both = gate_up.shape
    out = gate_up.new_empty((rows, both // 2))
    if rows:
        _swiglu_kernel[(rows, ceil_div(both // 2, _SIZE))](gate_up, out, both // 2, SIZE=_SIZE, **SAME_BITS)
    return out


def swiglu_reference(gate_up: Tensor) -> Tensor:
    """Return what :func:`swiglu` does in the plainest way, computed in the dtype of ``gate_up``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@triton.jit
def _swiglu_kernel(gate_up, out, size, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    real = at < size
    gate = tl.load(gate_up + row * 2 * size + at, mask=real, other=0.0)
    up = tl.load(gate_up + row * 2 * size + size + at, mask=real, other=0.0)
    wide = gate.to(tl.float32)
    activated = (wide * tl.sigmoid(wide)).to(gate.dtype)
    tl.store(out + row * size + at, (activated.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=real)
