"""Quantised matrix products: memory and compute rooflines of this machine, and the fraction reached, beside float32.

    python benchmarks/bench_qgemm.py [--threads N] [--rows 1,8,512] [--no-float]

A time is the minimum over rounds, each long enough to measure, with as many copies of the weights as the caches cannot
hold, so that every product reads its weights from memory, as a step of a model does. GB/s counts the packed weights
once; its roofline is a loop that only loads. GOP/s counts a multiplication and an addition per weight and row; its
roofline is the widest 8-bit dot product, from register to register. Activations are quantised beforehand; the norm and
the quantisation have lines of their own. The last columns are ``F.linear`` on float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.clock import Stopwatch
from steelyard.core.units import MIB, ceil_div
from steelyard.kernels.native import NativeKernels, NativeThreadPool, native_kernels
from steelyard.kernels.packed_matrix import HugePageArena, PackedMatrix, packed_bytes
from steelyard.kernels.probe import isas, peak, stream
from steelyard.kernels.qlinear import ACTIVATION_BLOCK_BYTES
from steelyard.kernels.threads import thread_pool

# SmolLM2-135M's five products, then one as in 8-billion-parameter models.
SHAPES = [
    ("q4_1", 960, 576),
    ("q4_1", 576, 576),
    ("q4_1", 3072, 576),
    ("q4_1", 576, 1536),
    ("q8_0", 49152, 576),
    ("q4_1", 4096, 4096),
    ("q8_0", 4096, 4096),
]
ROWS = (1, 2, 4, 6, 7, 8, 12, 16, 32, 64, 128, 512)
COPIES_BYTES = 192 * MIB
ROUND_S = 0.004
BUDGET_S = 0.6
EPS = 1e-5


def main() -> None:
    """Print the rooflines, then one line per shape and number of rows."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    native = native_kernels()
    if native is None:
        raise SystemExit("the extension is not built")
    pool = thread_pool(options.threads)
    read_per_s, operations_per_s = read_roofline(pool), dot_roofline(pool)
    isa, gb_per_s, gop_per_s = native.isas()[-1], read_per_s / 1e9, operations_per_s / 1e9
    print(f"{isa}, {options.threads} threads: {gb_per_s:.1f} GB/s, {gop_per_s:.0f} GOP/s")
    print_quantisation(native, pool)
    print("          weights rows        µs   GB/s of read  GOP/s of dot  float µs ratio")
    for kind, outputs, inputs in SHAPES:
        weights = some_weights(kind, outputs, inputs)
        dense = torch.randn(outputs, inputs)
        for rows in options.rows:
            seconds = product_s(native, pool, weights, rows)
            read, done = weights[0].num_bytes / seconds, 2 * rows * outputs * inputs / seconds
            line = (
                f"{kind} {outputs:>6}×{inputs:<5} {rows:>4} {seconds * 1e6:>9.1f} {read / 1e9:>6.1f} "
                f"{read / read_per_s:>7.0%} {done / 1e9:>6.0f} {done / operations_per_s:>6.0%}"
            )
            print(line + ("" if options.no_float else float_columns(dense, rows, seconds)), flush=True)


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=lambda text: [int(rows) for rows in text.split(",")], default=ROWS)
    parser.add_argument("--no-float", action="store_true")
    return parser.parse_args()


def read_roofline(pool: NativeThreadPool) -> float:
    """Return the bytes per second that can be read from memory."""
    memory = HugePageArena()(COPIES_BYTES).view(torch.float32).fill_(1)
    return COPIES_BYTES / best_s(lambda: stream("read", memory, memory, memory, pool, 1, isas()[-1]))


def dot_roofline(pool: NativeThreadPool) -> float:
    """Return the 8-bit operations per second that can be done."""
    rounds = 100_000
    operations = peak("int8", pool, rounds, isas()[-1])
    return operations / best_s(lambda: peak("int8", pool, rounds, isas()[-1]))


def print_quantisation(native: NativeKernels, pool: NativeThreadPool) -> None:
    """Print what quantising activations costs, with and without the norm before it."""
    print(f"{'activations':>17} {'quantise µs':>12} {'norm + quantise µs':>19}")
    for rows, inputs in ((1, 576), (1, 4096), (64, 576), (512, 576)):
        x, weight, blocks = torch.randn(rows, inputs), torch.randn(inputs), activation_blocks(rows, inputs)
        args = (x.data_ptr(), inputs), (rows, inputs, blocks.data_ptr())
        plain = best_s(lambda: native.quantise_rows(pool, *args[0], *args[1]))  # noqa: B023
        normed = best_s(lambda: native.rms_norm_quantise_rows(pool, *args[0], weight.data_ptr(), EPS, *args[1]))  # noqa: B023
        print(f"{f'{rows} × {inputs}':>17} {plain * 1e6:>12.2f} {normed * 1e6:>19.2f}")


def some_weights(format: str, outputs: int, inputs: int) -> list[PackedMatrix]:
    """Return copies of a random matrix, more than the caches hold."""
    arena, size = HugePageArena(COPIES_BYTES), packed_bytes(format, outputs, inputs)
    first = PackedMatrix.from_float(torch.randn(outputs, inputs), {"q4_1": "q4", "q8_0": "q8"}[format], allocate=arena)
    copies = [first]
    for _ in range(ceil_div(COPIES_BYTES, size) - 1):
        memory = arena(size)
        memory.copy_(first.data)
        copies.append(PackedMatrix(memory, format, outputs, inputs))
    return copies


def product_s(native: NativeKernels, pool: NativeThreadPool, weights: list[PackedMatrix], rows: int) -> float:
    """Return the seconds of one product with each of the copies in turn."""
    outputs, inputs = weights[0].num_rows, weights[0].num_inputs
    x, out, blocks = torch.randn(rows, inputs), torch.empty(rows, outputs), activation_blocks(rows, inputs)
    native.quantise_rows(pool, x.data_ptr(), inputs, rows, inputs, blocks.data_ptr())
    product, kind, turn = native.qgemm, weights[0].format, 0
    sources, target, goal = [w.data.data_ptr() for w in weights], blocks.data_ptr(), out.data_ptr()

    def one() -> None:
        nonlocal turn
        turn = (turn + 1) % len(sources)
        product(pool, kind, sources[turn], outputs, inputs, target, rows, goal, outputs, 0, "store")

    return best_s(one)


def activation_blocks(rows: int, inputs: int) -> Tensor:
    """Return room for quantised rows."""
    return torch.empty(rows * ceil_div(inputs, 32) * ACTIVATION_BLOCK_BYTES, dtype=torch.uint8)


def float_columns(dense: Tensor, rows: int, seconds: float) -> str:
    """Return PyTorch's time, and how many times longer it takes; its weights may stay in the caches."""
    x = torch.randn(rows, dense.shape[1])
    with torch.inference_mode():
        float_s = best_s(lambda: F.linear(x, dense))
    return f" {float_s * 1e6:>9.1f} {float_s / seconds:>4.1f}×"


def best_s(function: Callable[[], object]) -> float:
    """Return the least seconds of a call over rounds of several calls."""
    calls = max(1, round(ROUND_S / max(elapsed_s(function, 2) / 2, 1e-7)))
    best, spent = float("inf"), 0.0
    while spent < BUDGET_S:
        seconds = elapsed_s(function, calls)
        spent += seconds
        best = min(best, seconds / calls)
    return best


def elapsed_s(function: Callable[[], object], calls: int) -> float:
    """Return the seconds that so many calls take."""
    with Stopwatch() as watch:
        for _ in range(calls):
            function()
    return watch.elapsed_s


if __name__ == "__main__":
    main()
