"""The pool of threads for native kernels."""

import pytest
import torch

from steelyard.kernels.native import native_available
from steelyard.kernels.threads import thread_pool

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]


def test_has_as_many_workers_as_asked() -> None:
    assert thread_pool(3).num_workers == 3


def test_follows_pytorch_by_default() -> None:
    assert thread_pool().num_workers == torch.get_num_threads()


def test_is_made_once_per_size() -> None:
    assert thread_pool(2) is thread_pool(2)
