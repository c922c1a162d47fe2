"""Memory to measure with: in large pages where the system has them, so that address translation stays out of it."""

from __future__ import annotations

import torch
from torch import Tensor

from steelyard.kernels.huge_pages import zeroed_huge_pages


def huge_buffer(num_bytes: int, dtype: torch.dtype) -> Tensor:
    """Return a zeroed, touched, page-aligned tensor ``[num_bytes / itemsize]``.

    The system is asked for large pages; where it has none, latencies of large sizes include address translation.
    """
    return zeroed_huge_pages(num_bytes).view(dtype).zero_()
