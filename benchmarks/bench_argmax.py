"""Argmax of rows of logits: the compiled form beside PyTorch's, float32, a vocabulary of 49,152.

    python benchmarks/bench_argmax.py

Times are medians over rounds, in microseconds a call, Python's share included. The roofline is PyTorch's sum of
the same rows, which reads the same bytes once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from steelyard.core.clock import Stopwatch
from steelyard.kernels.argmax import argmax_rows, argmax_rows_torch
from steelyard.kernels.native import native_kernels

VOCABULARY = 49_152
ROWS = (1, 4, 16, 64, 256)
ROUNDS = 60


def main() -> None:
    """Print one line per number of rows and threads."""
    native = native_kernels()
    torch.manual_seed(0)
    print(f"compiled form: {native.isas()[-1] if native else 'absent, the first column is PyTorch too'}")
    print(
        f"{'rows':>5} {'threads':>8} {'native µs':>10} {'torch µs':>10} {'speed-up':>9} {'GB/s':>7} {'of roofline':>12}"
    )
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for rows in ROWS:
            print(measure(torch.randn(rows, VOCABULARY), threads))


def measure(x: Tensor, threads: int) -> str:
    """Return the line for one input."""
    native_us, torch_us = call_us(lambda: argmax_rows(x)), call_us(lambda: argmax_rows_torch(x))
    roofline_us = call_us(lambda: x.sum())
    return (
        f"{len(x):5} {threads:8} {native_us:10.1f} {torch_us:10.1f} {torch_us / native_us:8.1f}× "
        f"{x.nbytes / native_us / 1e3:7.1f} {roofline_us / native_us:9.0%}"
    )


def call_us(function: Callable[[], object]) -> float:
    """Return the median time of a call in microseconds."""
    return statistics.median(elapsed_us(function) for _ in range(ROUNDS))


def elapsed_us(function: Callable[[], object]) -> float:
    """Return the microseconds that one call takes."""
    with Stopwatch() as watch:
        function()
    return watch.elapsed_s * 1e6


if __name__ == "__main__":
    main()
