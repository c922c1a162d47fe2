"""Memory to measure with: in large pages where the system has them, so that address translation stays out of it."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


def huge_buffer(num_bytes: int, dtype: torch.dtype) -> Tensor:
    """Return a zeroed, touched, page-aligned tensor ``[num_bytes / itemsize]``.

    The system is asked for large pages; where it has none, latencies of large sizes include address translation.
    """
    memory = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).zero_()
