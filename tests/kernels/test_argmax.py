"""The largest element of each row: both forms agree with NumPy, ties, infinities and NaN included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels import argmax
from steelyard.kernels.argmax import argmax_rows, argmax_rows_torch
from steelyard.kernels.native import native_available, native_kernels
from steelyard.kernels.threads import thread_pool

FORMS = [argmax_rows, argmax_rows_torch]
COLUMNS = st.one_of(st.integers(1, 70), st.integers(1020, 1030), st.integers(2040, 3100))
# Few values: many ties.
SPECIAL = (-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan)


def check(x: torch.Tensor, largest: torch.Tensor, positions: torch.Tensor) -> None:
    expected = np.argmax(x.numpy(), axis=-1)  # the first among equals, and the first NaN
    np.testing.assert_array_equal(positions.numpy(), expected)
    np.testing.assert_array_equal(largest.numpy(), x.numpy()[np.arange(len(x)), expected])


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=80, deadline=None)
@given(rows=st.integers(1, 5), columns=COLUMNS, seed=st.integers(0, 1 << 30), kinds=st.integers(1, len(SPECIAL)))
def test_ties_infinities_and_nan(form, rows: int, columns: int, seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array(SPECIAL[:kinds], dtype=np.float32), size=(rows, columns))
    x = torch.from_numpy(values)
    check(x, *form(x))


@pytest.mark.parametrize("form", FORMS)
def test_every_position_is_found(form) -> None:
    for columns in (1, 31, 1024, 1057, 2048, 2100):
        x = torch.full((columns, columns), -3.0) + 4.0 * torch.eye(columns)
        check(x, *form(x))
        x = torch.full((columns, columns), float("-inf"))
        x.fill_diagonal_(float("nan"))
        check(x, *form(x))


@pytest.mark.parametrize("form", FORMS)
def test_large_batches_and_no_rows(form) -> None:
    x = torch.randn(37, 49152, generator=torch.Generator().manual_seed(0))
    assert x.numel() > argmax._ELEMENTS_WORTH_THREADS
    check(x, *form(x))
    largest, positions = form(torch.empty(0, 5))
    assert (largest.shape, positions.shape, positions.dtype) == ((0,), (0,), torch.int64)


def test_views_and_half_precision() -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    check(x[:, ::2], *argmax_rows(x[:, ::2]))
    largest, positions = argmax_rows(x.bfloat16())
    assert largest.dtype is torch.bfloat16
    assert torch.equal(positions, x.bfloat16().float().argmax(-1))


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
def test_every_instruction_set_and_number_of_threads_finds_the_same() -> None:
    native = native_kernels()
    assert native is not None
    x = torch.randn(9, 5003, generator=torch.Generator().manual_seed(1))
    x[4, 17] = float("nan")
    for isa in native.isas():
        for threads in (1, 2, 5, 11):
            largest, positions = torch.empty(9), torch.empty(9, dtype=torch.int64)
            addresses = (x.data_ptr(), largest.data_ptr(), positions.data_ptr())
            native.argmax_f32_on(isa, thread_pool(threads), *addresses, *x.shape)
            check(x, largest, positions)
    with pytest.raises(ValueError, match="avx1024"):
        native.argmax_f32_on("avx1024", thread_pool(1), 0, 0, 0, 0, 1)
