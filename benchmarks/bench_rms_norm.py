"""RMS norm: the compiled form beside PyTorch's, on one thread, float32.

    python benchmarks/bench_rms_norm.py

Times are medians over rounds, in microseconds a call, Python's share included. GB/s counts each element read once and
written once. The roofline is a copy of the same tensor into memory that is there already: it moves the same bytes and
computes nothing. The compiled form allocates its result as PyTorch does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from steelyard.core.clock import Stopwatch
from steelyard.kernels.native import native_kernels
from steelyard.kernels.rms_norm import rms_norm, rms_norm_torch

SHAPES = [(rows, hidden) for hidden in (576, 2048, 4096) for rows in (1, 8, 64, 512)]
ROUNDS = 7
ROUND_S = 0.02
EPS = 1e-5


def main() -> None:
    """Print one line per shape."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native = native_kernels()
    print(f"compiled form: {native.isas()[-1] if native else 'absent, the first column is PyTorch too'}")
    print(f"{'rows × hidden':>14} {'native µs':>10} {'torch µs':>10} {'speed-up':>9} {'GB/s':>7} {'of roofline':>12}")
    with torch.inference_mode():
        for rows, hidden in SHAPES:
            print(measure(torch.randn(rows, hidden), torch.randn(hidden)))


def measure(x: Tensor, weight: Tensor) -> str:
    """Return the line for one input."""
    target = torch.empty_like(x)
    native_us = call_us(lambda: rms_norm(x, weight, EPS))
    torch_us = call_us(lambda: rms_norm_torch(x, weight, EPS))
    copy_us = call_us(lambda: target.copy_(x))
    gb_per_s = 2 * x.nbytes / native_us / 1e3
    shape = f"{x.shape[0]} × {x.shape[1]}"
    return (
        f"{shape:>14} {native_us:10.2f} {torch_us:10.2f} {torch_us / native_us:8.1f}× {gb_per_s:7.1f} "
        f"{copy_us / native_us:12.0%}"
    )


def call_us(function: Callable[[], object]) -> float:
    """Return the median time of a call in microseconds."""
    calls = max(1, round(ROUND_S / max(elapsed_s(function, 3) / 3, 1e-7)))
    return statistics.median(elapsed_s(function, calls) for _ in range(ROUNDS)) / calls * 1e6


def elapsed_s(function: Callable[[], object], calls: int) -> float:
    """Return the seconds that so many calls take."""
    with Stopwatch() as watch:
        for _ in range(calls):
            function()
    return watch.elapsed_s


if __name__ == "__main__":
    main()
