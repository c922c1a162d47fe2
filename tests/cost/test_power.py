"""Power of devices: between idling and the peak, rising with use and clock, and near what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.power import CLOCK_EXPONENT, PowerModel, power_model
from steelyard.hardware.catalogue.read import find_device

_A100 = PowerModel(peak_watts=400.0, idle_watts=60.0)
_share = st.floats(0, 1)


@given(_share, _share, st.floats(0.1, 1))
def test_power_is_between_idling_and_the_peak(memory, compute, clock):
    assert 60 <= _A100.watts(memory, compute, clock) <= 400


@given(_share, _share, _share, st.floats(0.1, 1))
def test_power_rises_with_use_and_with_the_clock(memory, more, compute, clock):
    assert _A100.watts(max(memory, more), compute) >= _A100.watts(memory, compute)
    assert _A100.watts(memory, max(compute, more)) >= _A100.watts(memory, compute)
    assert _A100.watts(memory, compute, clock) <= _A100.watts(memory, compute)


def test_a_full_a100_gives_up_a_fifth_at_1110_mhz():
    assert _A100.watts(0.1, 0.9, 1110 / 1410) == pytest.approx(0.8 * 400, rel=0.01)


def test_power_above_idling_falls_with_the_cube_if_the_voltage_follows():
    cubic = PowerModel(peak_watts=100.0, idle_watts=20.0, clock_exponent=3.0)
    assert cubic.watts(1.0, 1.0, 0.5) == pytest.approx(20 + 80 / 8)
    assert 1 <= CLOCK_EXPONENT <= 3


def test_decodes_of_llama_2_70b_on_eight_a100_draw_what_was_measured():
    bytes_per_s = 2 * 69e9 / 8 / 0.0449
    assert _A100.watts(bytes_per_s / 2039e9, 0.0) / 400 == pytest.approx(0.435, rel=0.1)


def test_devices_without_a_known_peak_have_none():
    assert power_model(find_device("sn40l")) is None
    model = power_model(find_device("a100-80gb"))
    assert model is not None
    assert (model.peak_watts, model.idle_watts) == (400.0, 56.0)


@pytest.mark.parametrize(("peak", "idle", "exponent"), [(100.0, 100.0, 2.0), (100.0, -1.0, 2.0), (100.0, 10.0, 4.0)])
def test_what_cannot_be_is_refused(peak, idle, exponent):
    with pytest.raises(InputError):
        PowerModel(peak_watts=peak, idle_watts=idle, clock_exponent=exponent)
