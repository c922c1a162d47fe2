"""The threads that native kernels run on: one pool per number of threads, made when first asked for.

The pool's threads look for work for half a millisecond after each job, yielding their cores, and then sleep
(``csrc/parallel/thread_pool.hpp``). A forked child may use its parent's pool: it starts threads of its own.

PyTorch keeps threads of its own. As both belong to the same caller they do not work at the same time, but PyTorch's
OpenMP threads go on spinning for milliseconds after each of their operations unless ``OMP_WAIT_POLICY=passive`` was set
before PyTorch was loaded; they then share cores with the pool's (``benchmarks/bench_threads.py`` measures it).
"""

from __future__ import annotations

from functools import lru_cache

import torch

from steelyard.kernels.native import NativeThreadPool, native_kernels


def thread_pool(num_threads: int | None = None) -> NativeThreadPool:
    """Return the process's pool of ``num_threads`` (as many as PyTorch uses, if left out).

    The extension must be there (:func:`steelyard.kernels.native.native_available`).
    """
    return _pool(torch.get_num_threads() if num_threads is None else num_threads)


@lru_cache(maxsize=4)
def _pool(num_threads: int) -> NativeThreadPool:
    native = native_kernels()
    assert native is not None, "ask native_available() first"
    return native.make_thread_pool(num_threads)
