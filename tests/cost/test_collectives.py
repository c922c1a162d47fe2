"""Collectives: the α-β sums by hand, and how far they and interpolation lie from what NCCL took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.collectives import (
    FITS,
    AlphaBeta,
    Collective,
    fit_error,
    hierarchical_all_reduce_s,
    link_fit,
    measured_error,
    measured_s,
)
from steelyard.hardware.catalogue.read import find_link

_LINK = AlphaBeta(start_s=5.0, hop_s=1.0, bytes_per_s=10.0)


@pytest.mark.parametrize(
    ("collective", "ranks", "size", "expected"),
    [
        (Collective.ALL_REDUCE, 4, 4000.0, 5 + 6 + 600),  # a ring
        (Collective.ALL_REDUCE, 4, 0.0, 5 + 4),  # a tree
        (Collective.ALL_GATHER, 4, 4000.0, 5 + 3 + 300),
        (Collective.REDUCE_SCATTER, 4, 4000.0, 5 + 3 + 300),
        (Collective.ALL_TO_ALL, 4, 4000.0, 5 + 3 + 300),
        (Collective.SEND, 2, 4000.0, 5 + 1 + 400),
        (Collective.ALL_REDUCE, 1, 4000.0, 0),
    ],
)
def test_sums_of_messages(collective, ranks, size, expected):
    assert _LINK.seconds(collective, ranks, size) == pytest.approx(expected)


@given(st.sampled_from(list(Collective)), st.integers(2, 64), st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_bytes_never_take_less(collective, ranks, size, more):
    assert _LINK.seconds(collective, ranks, size + more) >= _LINK.seconds(collective, ranks, size)


def test_over_machines_each_device_reduces_its_share():
    outer = AlphaBeta(start_s=0.0, hop_s=0.0, bytes_per_s=1.0)
    inner = AlphaBeta(start_s=0.0, hop_s=0.0, bytes_per_s=10.0)
    assert hierarchical_all_reduce_s(inner, outer, (4, 2), 400.0) == pytest.approx(30 + 100 + 30)
    assert hierarchical_all_reduce_s(inner, outer, (1, 2), 400.0) == pytest.approx(400)
    assert hierarchical_all_reduce_s(inner, outer, (4, 1), 400.0) == pytest.approx(60)


def test_a_link_of_the_catalogue_goes_at_its_full_rate():
    fit = link_fit(find_link("nvlink-3"))
    assert fit.seconds(Collective.SEND, 2, 300e9) == pytest.approx(1.0 + 10e-6)
    assert link_fit(find_link("infiniband-hdr")).hop_s == 0


def test_what_was_measured_is_met_and_interpolated():
    assert measured_s("a100-80gb", Collective.ALL_REDUCE, 8, 2 * 268435456) == pytest.approx(4.226e-3)
    low, high = (measured_s("h100", Collective.ALL_GATHER, 4, size) for size in (1 << 20, 1 << 21))
    assert measured_s("h100", Collective.ALL_GATHER, 4, 3 << 19) == pytest.approx((low + high) / 2)
    assert measured_error("h200", Collective.ALL_TO_ALL, 8).median < 0.15


@pytest.mark.parametrize("device", FITS)
def test_fits_are_as_far_off_as_the_documents_say(device):
    error = fit_error(device)
    assert error.num_points == 252
    assert error.median < 0.16
    assert error.p90 < 0.36


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError):
        _LINK.seconds(Collective.SEND, 0, 1.0)
    with pytest.raises(InputError):
        _LINK.seconds(Collective.SEND, 2, -1.0)
    with pytest.raises(InputError, match="hop_s"):
        AlphaBeta(start_s=0.0, hop_s=-1.0, bytes_per_s=1.0)
    with pytest.raises(InputError, match="bytes_per_s"):
        AlphaBeta(start_s=0.0, hop_s=0.0, bytes_per_s=0.0)
    with pytest.raises(InputError, match="all_reduce of 16 was not measured"):
        measured_s("h100", Collective.ALL_REDUCE, 16, 1.0)
    with pytest.raises(InputError, match="no fit"):
        fit_error("l40s")
