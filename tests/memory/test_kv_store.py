"""Which store a cache gets where."""

import pytest
import torch

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
