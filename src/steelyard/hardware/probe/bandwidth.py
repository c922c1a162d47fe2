"""Memory bandwidth: read, copy and triad by number of threads, and reading by size on one thread.

Bytes are counted as STREAM does (McCalpin 1995): what a loop names, without a store's own read of its cache line.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe.buffers import huge_buffer
from steelyard.hardware.probe.reading import Reading, Scale, Unit, best_of, repeats_for, sizes
from steelyard.kernels.native import NativeThreadPool
from steelyard.kernels.probe import STREAM_ARRAYS, Stream, isas, stream
from steelyard.kernels.threads import thread_pool

SUBJECT = "bandwidth"
# Per array; three of them. Larger than the caches of most machines, and three together than nearly all.
_ARRAY_BYTES = 256 * MIB
_SMALLEST = 16 * KIB
# A round long enough to time and short enough to slip between other programmes.
_ROUND_S = 1e-3


def measure(scale: Scale) -> Iterator[Reading]:
    """Yield the memory's bandwidths, then reading's by size."""
    num_bytes = min(_ARRAY_BYTES, scale.max_bytes)
    arrays = [huge_buffer(num_bytes, torch.float32) for _ in range(3)]
    for num_threads in scale.thread_counts:
        for name in STREAM_ARRAYS:
            yield _rate(name, arrays, thread_pool(num_threads), scale.budget_s)
    for size in sizes(_SMALLEST, num_bytes, 1):
        part = [array[: size // 4] for array in arrays]
        yield _rate("read", part, thread_pool(1), scale.budget_s / 4, name="read by size")


def _rate(
    kind: Stream, arrays: list[torch.Tensor], pool: NativeThreadPool, budget_s: float, *, name: str | None = None
) -> Reading:
    isa = isas()[-1]
    a, b, c = arrays
    # Found on one thread: several may be held up by other programmes.
    alone = repeats_for(lambda count: stream(kind, a, b, c, thread_pool(1), count, isa), _ROUND_S)
    rounds = alone * pool.num_workers
    timing = best_of(lambda: stream(kind, a, b, c, pool, rounds, isa), budget_s)
    return Reading(
        subject=SUBJECT,
        name=name or kind,
        value=STREAM_ARRAYS[kind] * b.nbytes * rounds / timing.best_s,
        unit=Unit.BYTES_PER_S,
        spread=timing.spread,
        num_threads=pool.num_workers,
        size_bytes=b.nbytes,
    )
