"""S01 FastAttention: two levels of tiles and a tiling-mask, beside attention as it is written on paper.

One layer's causal attention over a whole prompt, three ways: native (blocks of keys against tiles of queries, masks
made per row of a border block from positions), naive (the S × S scores, mask and weights in memory) and PyTorch's
fused attention. The naive form computes above the diagonal too, and its memory traffic grows with S².

Not begun: the paper's tiling-AllReduce and its CPU–GPU cooperation. The paper measures on Ascend NPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.clock import Stopwatch
from steelyard.core.errors import InputError
from steelyard.core.units import format_bytes, format_seconds
from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.kernels.paged_attention import (
    AttentionPlan,
    PagedLayout,
    Rotary,
    StepSequences,
    native_layout_exists,
    paged_attention,
    rope_write_kv,
)
from steelyard.kernels.threads import thread_pool
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "10.7× over standard attention on NPUs, by two-level tiles and masks cut from one small pattern"
HEADS, KV_HEADS, DIM, BLOCK = 9, 3, 64, 16
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
QUICK_LENGTHS = (256, 1024)
# A row of a block of 64 keys is masked in registers: four vectors of 16 scores.
TILE_MASK_BYTES = 64 * 4
_CHECKED_ROWS = 64

Attend = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt length, attended three ways.

    Attributes:
        native_s: fastest round of the native kernels.
        naive_s: of scores, mask, softmax and product one after another.
        fused_s: of PyTorch's fused attention.
        error: largest absolute difference of native results from float64, over the last rows.
    """

    length: int
    native_s: float
    naive_s: float
    fused_s: float
    error: float


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S01 and return its table; the model does not matter.

    Raises:
        InputError: without the compiled extension.
    """
    if not native_layout_exists(KV_HEADS, DIM, BLOCK):
        raise InputError("the native kernels are not there", field="S01", remedy="Install with a C++ compiler")
    lengths, rounds = (QUICK_LENGTHS, 3) if options.quick else (LENGTHS, 3)
    torch.manual_seed(options.seed)
    with torch.inference_mode():
        outcomes = [measure(length, rounds) for length in lengths]
    return stamped(
        system="S01",
        claim=CLAIM,
        setup=(
            f"causal attention of one layer over a whole prompt of S tokens, {HEADS} query heads on {KV_HEADS} "
            f"key/value heads of {DIM}, float32, {torch.get_num_threads()} threads; naive and fused PyTorch get dense "
            f"keys repeated per query head; fastest of {rounds} interleaved rounds"
        ),
        rows=rows(outcomes),
        command=command_line("S01", options),
    )


def measure(length: int, rounds: int) -> Outcome:
    """Attend a prompt of ``length`` tokens in every way."""
    q = torch.randn(length, HEADS, DIM)
    k, v = torch.randn(2, length, KV_HEADS, DIM)
    ways = {"native": native(q, k, v), "naive": naive(q, k, v), "fused": fused(q, k, v)}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, attend in ways.items():
            with Stopwatch() as watch:
                attend()
            best[name] = min(best[name], watch.elapsed_s)
    return Outcome(length, best["native"], best["naive"], best["fused"], error_of(ways["native"](), q, k, v))


def spec() -> AttentionSpec:
    """Return the layer's attention."""
    return AttentionSpec(layer=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=DIM**-0.5)


def native(q: Tensor, k: Tensor, v: Tensor) -> Attend:
    """Return native attention over a paged cache that holds ``k`` and ``v``."""
    layout, num_blocks = PagedLayout(torch.float32, KV_HEADS, DIM, BLOCK), -(-len(k) // BLOCK)
    cache = torch.zeros(num_blocks, layout.block_bytes, dtype=torch.uint8)
    plan = AttentionPlan(layout, num_blocks)
    plan.build(StepSequences.of([len(q)], [len(k)], [range(num_blocks)]), HEADS, thread_pool())
    rope_write_kv(plan, cache, q, k, v, Rotary())
    return lambda: paged_attention(plan, spec(), cache, q)


def naive(q: Tensor, k: Tensor, v: Tensor) -> Attend:
    """Return attention as it is written on paper, its S × S mask made beforehand."""
    queries, keys, values = dense(q, k, v)
    mask = torch.full((len(q), len(k)), float("-inf")).triu(1)
    return lambda: torch.matmul((torch.matmul(queries, keys.mT) * DIM**-0.5 + mask).softmax(-1), values)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Attend:
    """Return PyTorch's fused attention."""
    queries, keys, values = (part[None] for part in dense(q, k, v))
    return lambda: F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def dense(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Return all three as ``[heads, tokens, head_dim]``, dense, keys and values repeated for each query head."""
    repeated = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (k, v))
    return [part.transpose(0, 1).contiguous() for part in (q, *repeated)]


def error_of(out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Return the largest absolute difference from float64 over the last rows."""
    expected = attention_reference(spec(), q[-_CHECKED_ROWS:].double(), k.double(), v.double())
    return (out[-_CHECKED_ROWS:].double() - expected).abs().max().item()


def rows(outcomes: list[Outcome]) -> tuple[ReproductionRow, ...]:
    """Return the table: each length's ratios, then mask memory and exactness."""
    table = []
    for outcome in outcomes:
        for name, claim, seconds in (("naive", "10.7×", outcome.naive_s), ("fused PyTorch", "–", outcome.fused_s)):
            times = f"{format_seconds(outcome.native_s)} against {format_seconds(seconds)}"
            ratio = seconds / outcome.native_s
            table.append(
                ReproductionRow(claim=claim, setup=f"S = {outcome.length}, over {name}", ours=times, ratio=ratio)
            )
    longest = outcomes[-1].length
    table += [
        ReproductionRow(
            claim="one small mask instead of S × S",
            setup=f"mask memory, S = {longest}",
            ours=f"{format_bytes(TILE_MASK_BYTES)} in registers against {format_bytes(4 * longest**2)}",
        ),
        ReproductionRow(
            claim="–",
            setup="largest error against float64, any S",
            ours=f"{max(outcome.error for outcome in outcomes):.1e}",
        ),
    ]
    return tuple(table)
