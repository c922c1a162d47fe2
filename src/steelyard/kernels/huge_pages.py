"""Large zeroed memory on huge pages, where the operating system has them (Linux's transparent huge pages).

A page exists once something of it is touched. With pages of 4 KiB that costs a microsecond or more each time in a
virtual machine, and translating addresses while gigabytes are streamed costs up to a fifth of the bandwidth.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


def zeroed_huge_pages(num_bytes: int) -> Tensor:
    """Return zeros, uint8 ``[num_bytes]``, at the beginning of a page; resident memory follows use."""
    # Private: memory that processes share (mmap's default) has huge pages only where an administrator allowed them.
    kind = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, max(num_bytes, 1), **kind)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)[:num_bytes]  # keeps the mapping alive
