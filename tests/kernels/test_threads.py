"""The pool of threads for native kernels, and the algorithms that run on it."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels.native import NativeThreadPool, native_available, native_kernels
from steelyard.kernels.threads import thread_pool

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]

# Around the length of a block of sums, and far from it.
SIZES = st.one_of(st.integers(0, 70), st.integers(4090, 4102), st.integers(8186, 8200), st.integers(0, 100_000))
THREADS = st.integers(1, 7)


def native():
    kernels = native_kernels()
    assert kernels is not None
    return kernels


def pools() -> list[NativeThreadPool]:
    return [native().make_thread_pool(count) for count in range(1, 8)]


def sum_of(pool: NativeThreadPool, x: np.ndarray) -> float:
    return native().sum_f64(pool, x.ctypes.data, len(x))


def running_sum_of(pool: NativeThreadPool, x: np.ndarray) -> np.ndarray:
    out = np.full_like(x, np.nan)
    native().running_sum_f64(pool, x.ctypes.data, out.ctypes.data, len(x))
    return out


def test_has_as_many_workers_as_asked() -> None:
    assert thread_pool(3).num_workers == 3
    assert native().make_thread_pool(0).num_workers == 1


def test_follows_pytorch_by_default() -> None:
    assert thread_pool().num_workers == torch.get_num_threads()


def test_is_made_once_per_size() -> None:
    assert thread_pool(2) is thread_pool(2)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, threads=THREADS, dynamic=st.booleans(), cut=st.integers(1, 300))
def test_every_element_is_visited_once(size: int, threads: int, dynamic: bool, cut: int) -> None:
    counts = np.zeros(size, dtype=np.int32)
    native().count_visits(thread_pool(threads), dynamic, cut, counts.ctypes.data, size)
    np.testing.assert_array_equal(counts, 1)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1 << 30))
def test_a_sum_is_right_and_has_the_same_bits_on_any_number_of_threads(size: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=size)
    alone = sum_of(thread_pool(1), x)
    assert abs(alone - np.sum(x, dtype=np.longdouble)) <= 1e-13 * np.abs(x).sum()
    assert {sum_of(thread_pool(threads), x).hex() for threads in range(2, 8)} == {alone.hex()}


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1 << 30))
def test_running_sums_are_right_and_have_the_same_bits_on_any_number_of_threads(size: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=size)
    alone = running_sum_of(thread_pool(1), x)
    assert np.all(np.abs(alone - np.cumsum(x, dtype=np.longdouble)) <= 1e-13 * np.cumsum(np.abs(x)))
    for threads in range(2, 8):
        np.testing.assert_array_equal(running_sum_of(thread_pool(threads), x), alone)


def test_running_sums_may_be_written_in_place() -> None:
    x = np.arange(20_000, dtype=np.float64)
    native().running_sum_f64(thread_pool(3), x.ctypes.data, x.ctypes.data, len(x))
    np.testing.assert_array_equal(x, np.cumsum(np.arange(20_000)))


@pytest.mark.parametrize("pin", [False, True])
def test_nobody_passes_a_barrier_before_all_have_come(pin: bool) -> None:
    for threads in (1, 2, 5):
        assert native().count_stragglers(native().make_thread_pool(threads, pin), 500) == 0


def test_jobs_from_several_threads_take_turns() -> None:
    pool, x = native().make_thread_pool(3), np.ones(10_000)
    with ThreadPoolExecutor(4) as callers:
        sums = list(callers.map(lambda _: sum_of(pool, x), range(200)))
    assert sums == [10_000.0] * 200


def test_pools_come_and_go_used_or_not() -> None:
    before = threading.active_count()
    for _ in range(30):
        assert [sum_of(pool, np.ones(5000)) for pool in pools()[::2]] == [5000.0] * 4
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    pool, x = native().make_thread_pool(3), np.ones(10_000)
    assert sum_of(pool, x) == 10_000.0
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs is killed, and then fails the test
        good = all(sum_of(pool, x) == 10_000.0 for _ in range(50))
        del pool
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sum_of(pool, x) == 10_000.0
