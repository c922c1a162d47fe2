"""Which store a cache gets where."""

from dataclasses import replace

import pytest
import torch

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.native import native_available
from steelyard.kernels.triton_available import triton_installed
from steelyard.memory.kv_store import make_kv_store
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape, PagedKVStore


def shape(block_size: int) -> KVShape:
    return KVShape(num_layers=1, num_kv_heads=2, head_dim=16, block_size=block_size, dtype=torch.float32)


def test_the_cpu_never_serves_by_triton_even_where_it_is_interpreted() -> None:
    native = NativeKVStore if native_available() else PagedKVStore
    assert isinstance(make_kv_store(shape(16), 3, torch.device("cpu")), native)
    assert isinstance(make_kv_store(shape(4), 3, torch.device("cpu")), PagedKVStore)


@pytest.mark.gpu
def test_cuda_attends_by_triton_where_it_is_installed() -> None:
    store = make_kv_store(shape(16), 3, torch.device("cuda"))
    assert isinstance(store, PagedKVStore) is not triton_installed()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("block_size", [4, 16])
def test_blocks_copied_to_another_store_hold_the_same(dtype: torch.dtype, block_size: int) -> None:
    of = replace(shape(block_size), num_layers=2, dtype=dtype)
    if dtype is torch.int8 and not isinstance(make_kv_store(of, 1, torch.device("cpu")), NativeKVStore):
        pytest.skip("only the native store holds int8")
    one, two = (make_kv_store(of, num_blocks, torch.device("cpu")) for num_blocks in (6, 9))
    assert isinstance(one, PagedKVStore | NativeKVStore)
    assert isinstance(two, PagedKVStore | NativeKVStore)
    sequence = Sequence(
        id=0, request_id="", index=0, prompt=(0,) * 2 * block_size, params=SamplingParams(), seed=0, arrival_s=0.0
    )
    step = one.step([SequenceWork(sequence, 0, 2 * block_size, (4, 1))])
    computed = torch.float32 if dtype is torch.int8 else dtype
    for layer in range(2):
        q, k, v = (torch.randn(2 * block_size, 2, 16).to(computed) for _ in range(3))
        step.attend(AttentionSpec(layer=layer, num_heads=2, num_kv_heads=2, head_dim=16, scale=0.25), q, k, v)
    assert one.block_format == two.block_format
    two.copy_in([7, 0], one.copy_out([4, 1]))
    for layer in range(2):
        sent, kept = (
            store.read(layer, torch.tensor(blocks), 2 * block_size) for store, blocks in ((one, [4, 1]), (two, [7, 0]))
        )
        assert sent[0].count_nonzero() > 0
        torch.testing.assert_close(kept, sent, rtol=0, atol=0)
    assert one.copy_out([]).shape == (0, one.copy_out([0]).shape[1])


def test_stores_of_unlike_shapes_have_unlike_formats() -> None:
    shapes = [shape(4), shape(16), shape(32), replace(shape(16), num_layers=2), replace(shape(16), dtype=torch.float16)]
    assert len({make_kv_store(of, 1, torch.device("cpu")).block_format for of in shapes}) == len(shapes)
