"""A step's attention by Triton kernels: any cut of sequences into steps attends as the dense form does."""

import random

import pytest
import torch

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.memory.paged_kv import KVShape
from steelyard.models.rope import rotate

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

from steelyard.memory.triton_kv import TritonKVStore, plan_tiles

BLOCK, HEADS, KV_HEADS, DIM = 4, 6, 2, 8
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_work(start: int, num_tokens: int, blocks: tuple[int, ...]) -> SequenceWork:
    sequence = Sequence(
        id=0, request_id="r", index=0, prompt=(0,) * 999, params=SamplingParams(), seed=0, arrival_s=0.0
    )
    return SequenceWork(sequence, start, num_tokens, blocks)


def make_store(num_blocks: int) -> TritonKVStore:
    shape = KVShape(num_layers=2, num_kv_heads=KV_HEADS, head_dim=DIM, block_size=BLOCK, dtype=torch.float32)
    return TritonKVStore(shape, num_blocks, DEVICE)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_steps_of_any_cut_equal_dense_attention(window: int | None, seed: int) -> None:
    rng = random.Random(seed)
    spec = AttentionSpec(layer=1, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=0.3, window=window)
    lengths = [rng.randint(1, 40) for _ in range(4)] + [150]
    numbers = list(range(sum(ceil_div(n, BLOCK) for n in lengths)))
    rng.shuffle(numbers)
    tables = [tuple(numbers.pop() for _ in range(ceil_div(n, BLOCK))) for n in lengths]
    qkv = [tuple(torch.randn(n, h, DIM, device=DEVICE) for h in (HEADS, KV_HEADS, KV_HEADS)) for n in lengths]
    store, done = make_store(200), [0] * len(lengths)
    got: list[list[torch.Tensor]] = [[] for _ in lengths]
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        busy = [i for i, n in enumerate(lengths) if done[i] < n]
        chosen = rng.sample(busy, rng.randint(1, len(busy)))
        cuts = [(i, rng.choice([1, lengths[i] - done[i], rng.randint(1, lengths[i] - done[i])])) for i in chosen]
        works = [make_work(done[i], n, tables[i][: ceil_div(done[i] + n, BLOCK)]) for i, n in cuts]
        packed = [torch.cat([qkv[i][part][done[i] : done[i] + n] for i, n in cuts]) for part in range(3)]
        rows = store.step(works).attend(spec, *packed).split([n for _, n in cuts])
        for (i, n), part in zip(cuts, rows, strict=True):
            got[i].append(part)
            done[i] += n
    for parts, (q, k, v) in zip(got, qkv, strict=True):
        torch.testing.assert_close(torch.cat(parts), attention_reference(spec, q, k, v), rtol=1e-4, atol=1e-5)


def test_padding_rows_are_neither_stored_nor_attended() -> None:
    store = make_store(4)
    spec = AttentionSpec(layer=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=1.0)
    q, k, v = (torch.randn(4, heads, DIM, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    out = store.step([make_work(0, 3, (2,))]).attend(spec, q, k, v)
    assert torch.equal(out[3], torch.zeros(HEADS, DIM, device=DEVICE))
    stored, _ = store.read(0, torch.tensor([2], device=DEVICE), BLOCK)
    assert torch.equal(stored[0, :3], k[:3])
    assert torch.equal(stored[0, 3], torch.zeros(KV_HEADS, DIM, device=DEVICE))


def test_rotating_on_the_way_equals_rotating_before() -> None:
    spec = AttentionSpec(layer=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=0.5)
    q, k, v = (torch.randn(7, heads, DIM, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    angles = torch.randn(7, 1, 2, device=DEVICE)
    rotation = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    works = [make_work(0, 6, (2, 0)), make_work(0, 1, (3,))]
    expected = make_store(4).step(works).attend(spec, rotate(q, rotation), rotate(k, rotation), v)
    got = make_store(4).step(works).rotate_and_attend(spec, q, k, v, rotation)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_plan_covers_every_token_once_and_tells_decodes_from_the_rest() -> None:
    works = [make_work(0, 70, tuple(range(18))), make_work(7, 1, (80, 81)), make_work(600, 1, tuple(range(100, 251)))]
    plan = plan_tiles(works, BLOCK, torch.device("cpu"))
    tiles = plan.tile_set(32)
    assert tiles.many.tolist() == [[0, 32, 0, 0], [32, 32, 32, 0], [64, 6, 64, 0]]
    assert tiles.single.tolist() == [[70, 1, 7, 1], [71, 1, 600, 2]]
    assert tiles.max_segments == 3
    assert plan.slots[[0, 5, 70, 71]].tolist() == [0, 5, 81 * BLOCK + 3, 250 * BLOCK]
    assert plan.tables[1].tolist() == [80, 81] + [0] * 149
    assert plan_tiles([], BLOCK, torch.device("cpu")).slots.tolist() == []
