"""Loops that measure a processor, thin over ``csrc/probe``: streams, a chain of dependent loads, register arithmetic.

They compute something checkable and count what they did; the caller keeps the time (``hardware.probe``). All need the
extension: PyTorch's dispatch costs more than what the small sizes measure, and nothing in it waits for a load.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from steelyard.kernels.native import NativeKernels, NativeThreadPool, native_kernels

Stream = Literal["read", "copy", "triad"]
Arithmetic = Literal["float32", "bfloat16", "int8"]
# Floating-point arrays that each stream touches, counted as STREAM does: a store's own read of its line is left out.
STREAM_ARRAYS: dict[Stream, int] = {"read": 1, "copy": 2, "triad": 3}


def isas() -> list[str]:
    """Return the instruction sets that the loops exist for here, the widest last."""
    return _native().isas()


def stream(name: Stream, a: Tensor, b: Tensor, c: Tensor, pool: NativeThreadPool, rounds: int, isa: str) -> float:
    """Run a stream over dense float32 ``[size]`` arrays, ``rounds`` times.

    Args:
        name: ``read`` sums ``b``; ``copy`` sets ``a = b``; ``triad`` sets ``a = b + 3 c``.
        a: written by ``copy`` and ``triad``.
        b: read.
        c: read by ``triad``.
        pool: every worker takes an equal share.
        rounds: how often.
        isa: one of :func:`isas`.

    Returns:
        The sum of ``b`` over all rounds for ``read``, else 0.
    """
    assert a.shape == b.shape == c.shape
    assert all(x.dtype is torch.float32 and x.is_contiguous() for x in (a, b, c))
    sums = torch.zeros(pool.num_workers)
    addresses = (a.data_ptr(), b.data_ptr(), c.data_ptr(), sums.data_ptr())
    _native().probe_stream(pool, isa, name, *addresses, b.numel(), rounds)
    return float(sums.sum())


def chase(chain: Tensor, start: int, steps: int) -> int:
    """Follow ``chain`` (int64 indices into itself) from ``start`` and return where ``steps`` loads lead."""
    assert chain.dtype is torch.int64
    assert chain.is_contiguous()
    return _native().probe_chase(chain.data_ptr(), start, steps)


def peak(arithmetic: Arithmetic, pool: NativeThreadPool, rounds: int, isa: str) -> float:
    """Multiply and add in registers on all workers; return how many operations that were.

    Returns:
        0 if ``isa`` has no instruction for ``arithmetic``.
    """
    flop = torch.zeros(pool.num_workers, dtype=torch.float64)
    result = torch.zeros(pool.num_workers)
    _native().probe_peak(pool, isa, arithmetic, rounds, flop.data_ptr(), result.data_ptr())
    return float(flop.sum())


def empty_jobs(pool: NativeThreadPool, count: int) -> None:
    """Give the pool ``count`` jobs that do nothing, one after another."""
    _native().probe_empty_jobs(pool, count)


def barriers(pool: NativeThreadPool, count: int) -> None:
    """Let all workers meet ``count`` times within one job."""
    _native().probe_barriers(pool, count)


def random_cycle(chain: Tensor, stride: int, seed: int) -> None:
    """Write into int64 ``chain`` one cycle through every ``stride``-th element, in random order, starting at 0.

    Following it visits ``len(chain) // stride`` elements and comes back; other elements are left alone. Sequential
    prefetchers find nothing in it.
    """
    count = len(chain) // stride
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator) * stride
    chain[order] = order.roll(-1)


def _native() -> NativeKernels:
    native = native_kernels()
    assert native is not None, "ask native_available() first"
    return native
