"""Native threads: what waking, meeting and moving memory cost, by the number of threads, and beside PyTorch's own.

    python benchmarks/bench_threads.py
    OMP_WAIT_POLICY=passive python benchmarks/bench_threads.py

*hot* is a job that follows the last at once, *after 2 ms* one that finds the workers asleep; *barrier* one meeting of
all workers inside a job. Each is a median over rounds, in microseconds, Python's share of a call included. STREAM's
triad moves arrays larger than the caches. The last table alternates a matrix product of PyTorch's with a job of ours
and says what a pair costs beyond the two alone: PyTorch's threads go on spinning after their work unless
OMP_WAIT_POLICY=passive is set.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from steelyard.core.clock import Stopwatch
from steelyard.hardware.this_machine import num_usable_cores
from steelyard.kernels.native import NativeKernels, NativeThreadPool, native_kernels
from steelyard.kernels.probe import barriers
from steelyard.kernels.stream import bytes_moved, run_stream

ROUNDS = 300
BARRIERS = 200
STREAM_SIZE = 1 << 24
STREAM_ROUNDS = 9
SUMMED = 1 << 18


def main() -> None:
    """Print three tables."""
    native = native_kernels()
    if native is None:
        raise SystemExit("the extension is not built: there is nothing to measure")
    cores = num_usable_cores()
    print(f"{cores} cores may be used")
    print(f"{'threads':>8} {'pinned':>7} {'hot µs':>8} {'after 2 ms µs':>14} {'barrier µs':>11}")
    for threads in sorted({1, 2, cores, 2 * cores}):
        for pin in (False, True):
            print(measure_latency(native, threads, pin))
    print(f"\n{'threads':>8} {'pages':>6} {'triad GB/s':>11} {'of one thread':>14}")
    for huge_pages in (False, True):
        measure_triad(sorted({1, 2, cores}), huge_pages=huge_pages)
    print(f"\n{'threads':>8} {'torch µs':>9} {'ours µs':>8} {'both in turn µs':>16} {'lost µs':>8}")
    for threads in sorted({1, 2, cores}):
        print(measure_beside_torch(native, threads))


def measure_latency(native: NativeKernels, threads: int, pin: bool) -> str:
    """Return the line of one pool."""
    pool = native.make_thread_pool(threads, pin)

    def job() -> None:
        barriers(pool, 0)

    hot_us = statistics.median(call_us(job) for _ in range(ROUNDS))
    asleep_us = statistics.median(call_us(job, pause_s=0.002) for _ in range(ROUNDS // 3))
    barrier_us = statistics.median(call_us(lambda: barriers(pool, BARRIERS)) for _ in range(ROUNDS // 3))
    return f"{threads:8} {'yes' if pin else 'no':>7} {hot_us:8.2f} {asleep_us:14.2f} {barrier_us / BARRIERS:11.3f}"


def measure_triad(thread_counts: list[int], *, huge_pages: bool) -> None:
    """Print one line per number of threads."""
    first = None
    for threads in thread_counts:
        seconds = run_stream(threads, STREAM_SIZE, STREAM_ROUNDS, huge_pages=huge_pages).seconds["triad"]
        gb_per_s = bytes_moved("triad", STREAM_SIZE) / statistics.median(seconds) / 1e9
        first = first or gb_per_s
        print(f"{threads:8} {'huge' if huge_pages else 'usual':>6} {gb_per_s:11.1f} {gb_per_s / first:13.2f}×")


def measure_beside_torch(native: NativeKernels, threads: int) -> str:
    """Return the line of one number of threads, the same for both."""
    torch.set_num_threads(threads)
    pool, x = native.make_thread_pool(threads), torch.ones(SUMMED, dtype=torch.float64)
    a, b = torch.ones(256, 256), torch.ones(256, 256)
    out = torch.empty(256, 256)
    torch_us = steady_us(lambda: torch.mm(a, b, out=out))
    ours_us = steady_us(lambda: sum_with(native, pool, x))
    both_us = steady_us(lambda: (torch.mm(a, b, out=out), sum_with(native, pool, x)))
    return f"{threads:8} {torch_us:9.1f} {ours_us:8.1f} {both_us:16.1f} {both_us - torch_us - ours_us:8.1f}"


def sum_with(native: NativeKernels, pool: NativeThreadPool, x: torch.Tensor) -> float:
    """Return the sum of ``x``, by ``pool``."""
    return native.sum_f64(pool, x.data_ptr(), x.numel())


def steady_us(function: Callable[[], object]) -> float:
    """Return the median time of a call among calls that follow each other at once."""
    return statistics.median(call_us(function) for _ in range(ROUNDS))


def call_us(function: Callable[[], object], pause_s: float = 0.0) -> float:
    """Return the time of one call after a pause, in microseconds."""
    if pause_s:
        time.sleep(pause_s)
    with Stopwatch() as watch:
        function()
    return watch.elapsed_s * 1e6


if __name__ == "__main__":
    main()
