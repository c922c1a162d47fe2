"""Rates of arithmetic: multiply-adds in registers per instruction set, and what PyTorch's matrix products reach.

The first is a roof that no program is above, the second what a good library gets of it. Matrix units that no kernel
here is written for (AMX) show in the second only, which is then the larger one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch

from steelyard.hardware.probe.reading import Reading, Scale, Unit, best_of, repeats_for
from steelyard.kernels.native import NativeThreadPool
from steelyard.kernels.probe import Arithmetic, isas, peak
from steelyard.kernels.threads import thread_pool

SUBJECT = "peaks"
_ROUND_S = 1e-3
_MATRIX_SIZE = 1024
_MATMUL_DTYPES = (torch.float32, torch.bfloat16)


def measure(scale: Scale) -> Iterator[Reading]:
    """Yield register peaks per instruction set, then matrix products, each by number of threads."""
    for num_threads in scale.thread_counts:
        for isa in isas():
            for arithmetic in get_args(Arithmetic):
                yield from _register_peak(arithmetic, isa, thread_pool(num_threads), scale.budget_s / 2)


def measure_matmul(scale: Scale) -> Iterator[Reading]:
    """Yield PyTorch's rates of a square product; leaves PyTorch's number of threads as it was."""
    before = torch.get_num_threads()
    try:
        for num_threads in scale.thread_counts:
            torch.set_num_threads(num_threads)
            for dtype in _MATMUL_DTYPES:
                yield _matmul(dtype, num_threads, scale.budget_s)
    finally:
        torch.set_num_threads(before)


def register_name(arithmetic: str, isa: str) -> str:
    """Return what a register peak's reading is called."""
    return f"{arithmetic} {isa}"


def matmul_name(dtype: str) -> str:
    """Return what a matrix product's reading is called."""
    return f"{dtype} torch.mm"


def _register_peak(arithmetic: Arithmetic, isa: str, pool: NativeThreadPool, budget_s: float) -> Iterator[Reading]:
    if not peak(arithmetic, pool, 1, isa):
        return
    # Found on one thread: several may be held up by other programmes.
    rounds = repeats_for(lambda count: peak(arithmetic, thread_pool(1), count, isa), _ROUND_S)
    timing = best_of(lambda: peak(arithmetic, pool, rounds, isa), budget_s)
    yield Reading(
        subject=SUBJECT,
        name=register_name(arithmetic, isa),
        value=peak(arithmetic, pool, rounds, isa) / timing.best_s,
        unit=Unit.FLOP_PER_S,
        spread=timing.spread,
        num_threads=pool.num_workers,
    )


def _matmul(dtype: torch.dtype, num_threads: int, budget_s: float) -> Reading:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, _MATRIX_SIZE, _MATRIX_SIZE, generator=generator).to(dtype)
    out = torch.empty_like(a)
    timing = best_of(lambda: torch.mm(a, b, out=out), budget_s)
    return Reading(
        subject=SUBJECT,
        name=matmul_name(str(dtype).removeprefix("torch.")),
        value=2 * _MATRIX_SIZE**3 / timing.best_s,
        unit=Unit.FLOP_PER_S,
        spread=timing.spread,
        num_threads=num_threads,
    )
