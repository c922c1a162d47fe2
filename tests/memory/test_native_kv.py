"""The native store and its steps: as PyTorch's, and to the last bit the same however sequences are cut into steps."""

import random
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.kernels.attention import AttentionSpec, attention_reference
from steelyard.kernels.native import native_available
from steelyard.memory.kv_store import make_kv_store
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape, PagedKVStore

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]

BLOCK, HEADS, KV_HEADS, DIM = 16, 6, 2, 32
CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.int8: 3e-2}


def make_shape(dtype: torch.dtype = torch.float32) -> KVShape:
    return KVShape(num_layers=2, num_kv_heads=KV_HEADS, head_dim=DIM, block_size=BLOCK, dtype=dtype)


def make_spec(window: int | None = None, softcap: float | None = None) -> AttentionSpec:
    return AttentionSpec(
        layer=1, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=0.2, window=window, softcap=softcap
    )


def make_work(start: int, num_tokens: int, blocks: tuple[int, ...]) -> SequenceWork:
    params = SamplingParams()
    sequence = Sequence(id=0, request_id="r", index=0, prompt=(0,) * 10_000, params=params, seed=0, arrival_s=0.0)
    return SequenceWork(sequence, start, num_tokens, blocks)


def random_qkv(num_tokens: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(num_tokens, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))


def attend_in_steps(store: NativeKVStore, spec: AttentionSpec, qkv: tuple[torch.Tensor, ...], cuts: list[int]):
    """Attend one sequence, so many tokens a step, in blocks that start anywhere."""
    blocks = tuple(range(1, 1 + ceil_div(len(qkv[0]), BLOCK)))
    outputs, start = [], 0
    for count in cuts:
        access = store.step([make_work(start, count, blocks)])
        outputs.append(access.attend(spec, *(part[start : start + count] for part in qkv)))
        start += count
    return torch.cat(outputs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("seed", range(3))
def test_steps_of_any_cut_equal_dense_attention(dtype: torch.dtype, window: int | None, seed: int) -> None:
    rng, spec = random.Random(seed), make_spec(window)
    lengths = [rng.randint(1, 90) for _ in range(6)] + [600]
    numbers = list(range(sum(ceil_div(n, BLOCK) for n in lengths)))
    rng.shuffle(numbers)
    tables = [tuple(numbers.pop() for _ in range(ceil_div(n, BLOCK))) for n in lengths]
    qkv = [random_qkv(n) for n in lengths]
    store, done = NativeKVStore(make_shape(dtype), 200), [0] * len(lengths)
    got: list[list[torch.Tensor]] = [[] for _ in lengths]
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        busy = [i for i, n in enumerate(lengths) if done[i] < n]
        chosen = rng.sample(busy, rng.randint(1, len(busy)))
        cuts = [(i, rng.choice([1, lengths[i] - done[i], rng.randint(1, lengths[i] - done[i])])) for i in chosen]
        access = store.step([make_work(done[i], n, tables[i][: ceil_div(done[i] + n, BLOCK)]) for i, n in cuts])
        packed = [torch.cat([qkv[i][part][done[i] : done[i] + n] for i, n in cuts]) for part in range(3)]
        for (i, n), rows in zip(cuts, access.attend(spec, *packed).split([n for _, n in cuts]), strict=True):
            got[i].append(rows)
            done[i] += n
    for parts, (q, k, v) in zip(got, qkv, strict=True):
        expected = attention_reference(spec, q.double(), k.double(), v.double())
        torch.testing.assert_close(torch.cat(parts).double(), expected, rtol=0, atol=TOLERANCE[dtype])


@settings(max_examples=25)
@given(
    length=st.integers(1, 1400),
    window=st.sampled_from([None, 1, 33, 600]),
    softcap=st.sampled_from([None, 5.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**31),
)
def test_a_cut_never_shows_in_a_bit(
    length: int, window: int | None, softcap: float | None, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    rng, spec, qkv = random.Random(seed), make_spec(window, softcap), random_qkv(length)
    attend = partial(attend_in_steps, NativeKVStore(make_shape(dtype), 100), spec, qkv)
    whole = attend([length])
    cuts = []
    while sum(cuts) < length:
        cuts.append(min(rng.choice([1, 2, 7, 64, 300]), length - sum(cuts)))
    assert torch.equal(attend(cuts), whole)


def test_token_by_token_is_the_whole_prompt_bit_for_bit() -> None:
    qkv = random_qkv(1100)
    whole = attend_in_steps(NativeKVStore(make_shape(), 100), make_spec(), qkv, [1100])
    assert torch.equal(attend_in_steps(NativeKVStore(make_shape(), 100), make_spec(), qkv, [1] * 1100), whole)


def test_what_other_sequences_left_in_a_block_changes_nothing() -> None:
    qkv = random_qkv(21)
    clean, dirty = NativeKVStore(make_shape(), 4), NativeKVStore(make_shape(), 4)
    bad = tuple(torch.full((64, heads, DIM), float("nan")) for heads in (HEADS, KV_HEADS, KV_HEADS))
    dirty.step([make_work(0, 64, (0, 1, 2, 3))]).attend(make_spec(), *bad)
    for cuts in ([21], [1] * 21, [5, 16]):
        expected = attend_in_steps(clean, make_spec(), qkv, cuts)
        assert torch.isfinite(expected).all()
        assert torch.equal(attend_in_steps(dirty, make_spec(), qkv, cuts), expected)


def test_padding_rows_are_neither_stored_nor_attended() -> None:
    store = NativeKVStore(make_shape(), 4)
    q, k, v = random_qkv(4)
    out = store.step([make_work(0, 3, (2,))]).attend(make_spec(), q, k, v)
    assert torch.equal(out[3], torch.zeros(HEADS, DIM))
    stored, _ = store.read(1, torch.tensor([2]), BLOCK)
    assert torch.equal(stored[0, :3], k[:3])
    assert torch.equal(stored[0, 3], torch.zeros(KV_HEADS, DIM))


def test_layers_do_not_mix() -> None:
    store, (q, k, v) = NativeKVStore(make_shape(), 4), random_qkv(20)
    store.step([make_work(0, 20, (1, 3))]).attend(make_spec(), q, k, v)
    other, _ = store.read(0, torch.arange(4), 4 * BLOCK)
    assert not other.any()
    assert store.layer_address(1) == store.layer(1).data_ptr()


def test_a_step_without_sequences_attends_to_nothing() -> None:
    out = NativeKVStore(make_shape(), 4).step([]).attend(make_spec(), *random_qkv(2))
    assert torch.equal(out, torch.zeros(2, HEADS, DIM))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_served(dtype: torch.dtype) -> None:
    qkv = tuple(part.to(dtype) for part in random_qkv(40))
    out = NativeKVStore(make_shape(dtype), 4).step([make_work(0, 40, (0, 1, 2))]).attend(make_spec(), *qkv)
    assert out.dtype is dtype
    expected = attention_reference(make_spec(), *(part.double() for part in qkv))
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=TOLERANCE[dtype])


def test_strided_heads_are_served() -> None:
    packed = torch.randn(20, HEADS + 2 * KV_HEADS, DIM)
    parts = packed.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    strided = tuple(part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts)
    plain = NativeKVStore(make_shape(), 2).step([make_work(0, 20, (0, 1))]).attend(make_spec(), *parts)
    assert torch.equal(
        NativeKVStore(make_shape(), 2).step([make_work(0, 20, (0, 1))]).attend(make_spec(), *strided), plain
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_block_has_the_bytes_that_its_shape_says(dtype: torch.dtype) -> None:
    shape = make_shape(dtype)
    assert NativeKVStore(shape, 3).layout.block_bytes * shape.num_layers == shape.block_bytes


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, NativeKVStore),
        ({"block_size": 8}, PagedKVStore),
        ({"head_dim": 24}, PagedKVStore),
        ({"head_dim": 512}, PagedKVStore),
    ],
)
def test_the_native_store_serves_what_it_can(changes: dict[str, int], kind: type) -> None:
    sizes = {"num_layers": 1, "num_kv_heads": 2, "head_dim": 64, "block_size": 16} | changes
    store = make_kv_store(KVShape(**sizes, dtype=torch.float32), 2, CPU)
    assert type(store) is kind
