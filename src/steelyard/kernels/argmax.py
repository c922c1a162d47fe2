"""The largest element of each row and where it stands: the greedy choice of a token, and the peak that sampling needs.

Two forms: the compiled one for dense float32 on the CPU, several times as fast (``benchmarks/bench_argmax.py``), and
PyTorch for everything else. Both return the same elements.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steelyard.kernels.native import NativeKernels, native_kernels
from steelyard.kernels.threads import thread_pool

# Fewer elements are done by the calling thread before another has woken up.
_ELEMENTS_WORTH_THREADS = 1 << 19


def argmax_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's largest element ``[rows]`` and its position ``[rows]`` int64, the first among equals.

    A NaN counts as larger than any number.

    Args:
        x: ``[rows, columns]``, ``columns`` not 0; any floating dtype and device.
    """
    native = native_kernels()
    if native is not None and type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu and x.is_contiguous():
        return _argmax_rows_native(native, x)
    return argmax_rows_torch(x)


def argmax_rows_torch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`argmax_rows` does, by PyTorch alone."""
    # torch.argmax promises the first of equal maxima; the maximum is gathered so that both speak of one element.
    positions = x.argmax(dim=-1)
    return x.gather(-1, positions[:, None])[:, 0], positions


def _argmax_rows_native(native: NativeKernels, x: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    assert columns > 0
    largest = torch.empty(rows, dtype=torch.float32)
    positions = torch.empty(rows, dtype=torch.int64)
    pool = thread_pool(1 if x.numel() < _ELEMENTS_WORTH_THREADS else None)
    native.argmax_f32(pool, x.data_ptr(), largest.data_ptr(), positions.data_ptr(), rows, columns)
    return largest, positions
