"""STREAM (McCalpin): what the memory of this machine gives to simple loops, run on the native parallel layer.

``copy c = a``, ``scale b = 3 c``, ``add c = a + b``, ``triad a = b + 3 c`` over float64 arrays that lie where the
threads that use them run (``csrc/parallel/stream.cpp``). Only native: there is no plain form, as STREAM *is* the loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.core.errors import ResourceError
from steelyard.kernels.native import native_kernels
from steelyard.kernels.threads import thread_pool

ELEMENT_BYTES = 8
# Arrays that each kernel reads or writes once; STREAM counts no more, though a written line is often read before.
ARRAYS_MOVED = {"copy": 2, "scale": 2, "add": 3, "triad": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTimes:
    """What one run measured.

    Attributes:
        seconds: kernel, in the order of :data:`ARRAYS_MOVED` → its time in each round.
        worst_error: largest relative error of an element after the last round.
    """

    seconds: Mapping[str, tuple[float, ...]]
    worst_error: float


def run_stream(num_threads: int, size: int, rounds: int, *, huge_pages: bool = False) -> StreamTimes:
    """Run the four kernels in turn, ``rounds`` times, on arrays of ``size`` elements made for the run.

    Args:
        num_threads: threads, the calling one included.
        size: elements per array, three arrays; take four times the last-level cache to measure memory.
        rounds: times each kernel runs, at least 1; the first is usually slower.
        huge_pages: ask the operating system for large pages.

    Raises:
        ResourceError: if the extension is not there.
        MemoryError: if the arrays do not fit.
    """
    native = native_kernels()
    if native is None:
        raise ResourceError(
            "STREAM runs in the compiled extension, which is missing or switched off",
            field="steelyard.kernels._native",
            remedy="Install a C++ compiler and reinstall, and do not set STEELYARD_NATIVE=0",
        )
    assert size > 0
    assert rounds > 0
    seconds, worst_error = native.stream_f64(thread_pool(num_threads), size, rounds, huge_pages)
    by_kernel = {kernel: tuple(times) for kernel, times in zip(ARRAYS_MOVED, seconds, strict=True)}
    return StreamTimes(seconds=by_kernel, worst_error=worst_error)


def bytes_moved(kernel: str, size: int) -> int:
    """Return the bytes that one round of ``kernel`` moves over arrays of ``size`` elements, as STREAM counts them."""
    return ARRAYS_MOVED[kernel] * ELEMENT_BYTES * size
