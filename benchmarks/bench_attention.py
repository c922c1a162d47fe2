"""Paged attention of one layer: the compiled kernels beside PyTorch's scaled_dot_product_attention.

    python benchmarks/bench_attention.py

Shapes are SmolLM2-135M's: 9 query heads, 3 key/value heads of 64. Prefill counts the multiply-adds under the causal
diagonal and is set against the fastest float32 matrix product seen on as many threads; decode counts the cache's bytes
and is set against summing as many bytes. Rounds of all contenders are interleaved and the fastest of each is shown, as
on a shared machine everything else is noise. PyTorch's attention is given dense float32 keys, repeated for
each query head; it need not gather them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.core.clock import Stopwatch
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.linear import can_pack, pack_weight, packed_linear
from steelyard.kernels.native import native_available
from steelyard.kernels.paged_attention import KV_TYPES, paged_attention
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape

HEADS, KV_HEADS, DIM, BLOCK = 9, 3, 64, 16
SPEC = AttentionSpec(layer=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=DIM**-0.5)
PREFILLS = (512, 2048)
DECODES = {"1 × 128": [128], "1 × 8192": [8192], "64 × 100 … 3880": [100 + 60 * i for i in range(64)]}
ROUNDS = 15

Contender = Callable[[], object]


def main() -> None:
    """Print one line per shape and contender."""
    parser = argparse.ArgumentParser(description="Attention of one layer, compiled and PyTorch's.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    if not native_available():
        print("the extension is not built")
        return
    with torch.inference_mode():
        for length in PREFILLS:
            report_prefill(length)
        for name, contexts in DECODES.items():
            report_decode(name, contexts)


def report_prefill(length: int) -> None:
    """Print GFLOP/s of a prompt of so many tokens."""
    flops = 4 * HEADS * DIM * length * (length + 1) / 2
    side = torch.randn(1024, 1024)
    packed = pack_weight(side) if can_pack(side.device, side.dtype) else None
    contenders: dict[str, Contender] = {str(dtype): native(dtype, [length], length) for dtype in KV_TYPES}
    contenders["sdpa"] = sdpa([length], length)
    contenders["matmul"] = lambda: side @ side if packed is None else packed_linear(side, packed, None)
    best = fastest_s(contenders)
    peak = 2 * 1024**3 / best.pop("matmul")
    print(f"\nprefill {length}: float32 matrix product {peak / 1e9:.0f} GFLOP/s")
    for name, seconds in best.items():
        print(
            f"  {name:>15} {seconds * 1e3:9.3f} ms {flops / seconds / 1e9:8.1f} GFLOP/s {flops / seconds / peak:6.0%}"
        )


def report_decode(name: str, contexts: list[int]) -> None:
    """Print GB/s of one token each of sequences with such contexts."""
    num_bytes = {str(dtype): sum(contexts) * shape(dtype).block_bytes // BLOCK for dtype in KV_TYPES}
    contenders: dict[str, Contender] = {str(dtype): native(dtype, contexts, 1) for dtype in KV_TYPES}
    if len(contexts) == 1:
        contenders["sdpa"] = sdpa(contexts, 1)
    summed = torch.ones(num_bytes["torch.float32"] // 8, dtype=torch.int64)
    contenders["sum"] = lambda: summed.sum()
    best = fastest_s(contenders)
    bandwidth = summed.nbytes / best.pop("sum")
    print(f"\ndecode {name}: sum of as many bytes as float32 has {bandwidth / 1e9:.1f} GB/s")
    for kind, seconds in best.items():
        rate = num_bytes.get(kind, num_bytes["torch.float32"]) / seconds
        print(f"  {kind:>15} {seconds * 1e6:9.1f} µs {rate / 1e9:8.1f} GB/s {rate / bandwidth:6.0%}")


def shape(dtype: torch.dtype) -> KVShape:
    """Return a cache of one layer."""
    return KVShape(num_layers=1, num_kv_heads=KV_HEADS, head_dim=DIM, block_size=BLOCK, dtype=dtype)


def native(dtype: torch.dtype, contexts: list[int], num_queries: int) -> Contender:
    """Return a call of the kernel over a filled cache whose blocks lie in random order."""
    counts = [-(-context // BLOCK) for context in contexts]
    store, numbers = NativeKVStore(shape(dtype), sum(counts)), torch.randperm(sum(counts)).tolist()
    tables = [tuple(numbers.pop() for _ in range(count)) for count in counts]
    for context, table in zip(contexts, tables, strict=True):
        qkv = (torch.randn(context, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        store.step([work(context, context, table)]).attend(SPEC, *qkv)
    access = store.step([work(context, num_queries, table) for context, table in zip(contexts, tables, strict=True)])
    plan, q = access.plan(HEADS), torch.randn(num_queries * len(contexts), HEADS, DIM)
    return lambda: paged_attention(plan, SPEC, store.layer(0), q)


def work(context: int, num_queries: int, table: tuple[int, ...]) -> SequenceWork:
    """Return the work of the last ``num_queries`` tokens of a sequence."""
    params = SamplingParams()
    sequence = Sequence(id=0, request_id="", index=0, prompt=(0,) * context, params=params, seed=0, arrival_s=0.0)
    return SequenceWork(sequence, context - num_queries, num_queries, table)


def sdpa(contexts: list[int], num_queries: int) -> Contender:
    """Return a call of PyTorch's attention over one dense sequence."""
    q: Tensor = torch.randn(1, HEADS, num_queries, DIM)
    k, v = torch.randn(2, 1, HEADS, contexts[0], DIM)
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=num_queries > 1)


def fastest_s(contenders: Mapping[str, Contender]) -> dict[str, float]:
    """Return the fastest of interleaved rounds of each."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            with Stopwatch() as watch:
                call()
            best[name] = min(best[name], watch.elapsed_s)
    return best


if __name__ == "__main__":
    main()
