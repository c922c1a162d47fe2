"""The collector waits, and is left as it was."""

from __future__ import annotations

import gc

import pytest

from steelyard.core.garbage import paused_collection


def test_pauses_and_goes_on():
    with paused_collection():
        assert not gc.isenabled()
        with paused_collection():
            pass
        assert not gc.isenabled(), "the outer one still wants it to wait"
    assert gc.isenabled()


def test_goes_on_after_an_error():
    @paused_collection()
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert gc.isenabled()


def test_stays_off_for_whom_it_was_off():
    gc.disable()
    try:
        with paused_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
