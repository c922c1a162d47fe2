"""The paged store and a step's plan: any cut of sequences into steps and tiles attends as the dense form does."""

import random

import pytest
import torch

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.memory.paged_kv import KVShape, PagedKVStore, PagedStepKV
from steelyard.memory.step_plan import QUERY_TILE, plan_step

BLOCK, HEADS, KV_HEADS, DIM = 4, 6, 2, 8
CPU = torch.device("cpu")


def make_work(start: int, num_tokens: int, blocks: tuple[int, ...], length: int = 10_000) -> SequenceWork:
    sequence = Sequence(
        id=blocks[0],
        request_id="r",
        index=0,
        prompt=tuple(range(length)),
        params=SamplingParams(),
        seed=0,
        arrival_s=0.0,
    )
    return SequenceWork(sequence, start, num_tokens, blocks)


def make_store(num_blocks: int) -> PagedKVStore:
    shape = KVShape(num_layers=2, num_kv_heads=KV_HEADS, head_dim=DIM, block_size=BLOCK, dtype=torch.float32)
    return PagedKVStore(shape, num_blocks, CPU)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(4))
def test_steps_of_any_cut_equal_dense_attention(window: int | None, seed: int) -> None:
    rng = random.Random(seed)
    spec = AttentionSpec(layer=1, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=0.3, window=window)
    lengths = [rng.randint(1, 40) for _ in range(6)] + [QUERY_TILE + 9]
    numbers = list(range(sum(ceil_div(n, BLOCK) for n in lengths)))
    rng.shuffle(numbers)
    tables = [tuple(numbers.pop() for _ in range(ceil_div(n, BLOCK))) for n in lengths]
    qkv = [tuple(torch.randn(n, h, DIM) for h in (HEADS, KV_HEADS, KV_HEADS)) for n in lengths]
    store, done = make_store(200), [0] * len(lengths)
    got: list[list[torch.Tensor]] = [[] for _ in lengths]
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        busy = [i for i, n in enumerate(lengths) if done[i] < n]
        chosen = rng.sample(busy, rng.randint(1, len(busy)))
        cuts = [(i, rng.choice([1, lengths[i] - done[i], rng.randint(1, lengths[i] - done[i])])) for i in chosen]
        works = [make_work(done[i], n, tables[i][: ceil_div(done[i] + n, BLOCK)]) for i, n in cuts]
        packed = [torch.cat([qkv[i][part][done[i] : done[i] + n] for i, n in cuts]) for part in range(3)]
        kv = PagedStepKV(store, plan_step(works, BLOCK, store.padding_block, CPU))
        for (i, n), rows in zip(cuts, kv.attend(spec, *packed).split([n for _, n in cuts]), strict=True):
            got[i].append(rows)
            done[i] += n
    for parts, (q, k, v) in zip(got, qkv, strict=True):
        torch.testing.assert_close(torch.cat(parts), attention_reference(spec, q, k, v), rtol=1e-4, atol=1e-5)


def test_padding_rows_are_neither_stored_nor_attended() -> None:
    store = make_store(4)
    spec = AttentionSpec(layer=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=1.0)
    kv = PagedStepKV(store, plan_step([make_work(0, 3, (2,))], BLOCK, store.padding_block, CPU))
    q, k, v = torch.randn(4, HEADS, DIM), torch.randn(4, KV_HEADS, DIM), torch.randn(4, KV_HEADS, DIM)
    out = kv.attend(spec, q, k, v)
    assert torch.equal(out[3], torch.zeros(HEADS, DIM))
    stored, _ = store.read(0, torch.tensor([2]), BLOCK)
    assert torch.equal(stored[0, :3], k[:3])
    assert torch.equal(stored[0, 3], torch.zeros(KV_HEADS, DIM))


def test_plan_covers_every_token_once_and_bounds_padding() -> None:
    works = [make_work(0, 300, tuple(range(75))), make_work(7, 1, (80, 81)), make_work(2000, 1, tuple(range(100, 601)))]
    plan = plan_step(works, BLOCK, 999, CPU)
    rows = [torch.arange(302)[group.rows] for group in plan.groups]
    assert torch.cat(rows).sort().values.tolist() == list(range(302))
    assert {group.num_keys for group in plan.groups if group.positions.shape[1] == 1} == {16, 2016}, (
        "not padded together"
    )
    assert plan.slots[[0, 5, 300, 301]].tolist() == [0, 5, 81 * BLOCK + 3, 600 * BLOCK]


def test_block_bytes_counts_keys_and_values_of_all_layers() -> None:
    assert make_store(1).shape.block_bytes == 2 * 2 * KV_HEADS * DIM * BLOCK * 4
