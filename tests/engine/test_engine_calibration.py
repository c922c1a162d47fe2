"""The engine's factors: worked out from timings by hand, and found on the real kernels."""

import pytest
import torch

from steelyard.cost.calibration import OperatorFit
from steelyard.cost.operators import OPERATORS
from steelyard.cost.roofline import Work
from steelyard.engine import calibration as module
from steelyard.engine.calibration import Timed, calibrate, operator_fit
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate

DEVICE = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 30, bandwidth_bytes_per_s=100.0),),
    peaks=(PeakRate(dtype="float32", flop_per_s=1000.0),),
)


def fit(tiny_s, reading_s, computing_s):
    reading, computing = Timed(Work(1, 200), reading_s), Timed(Work(5000, 1), computing_s)
    return operator_fit("linear", "float32", DEVICE, tiny_s, reading, computing)


def test_factors_by_hand():
    assert fit(1.0, 5.0, 11.0) == OperatorFit(
        operator="linear", dtype="float32", overhead_s=1.0, memory_efficiency=0.5, compute_efficiency=0.5
    )


def test_noise_cannot_make_an_operator_faster_than_its_own_time_allows():
    noisy = fit(100.0, 4.0, 10.0)
    assert noisy.overhead_s == 2.0
    assert noisy.memory_efficiency == pytest.approx(1.0)
    assert noisy.compute_efficiency == pytest.approx(5 / 8)


def test_finds_every_operator_of_every_known_format(monkeypatch):
    monkeypatch.setattr(module, "_LINEAR_SIZE", (128, 256))
    monkeypatch.setattr(module, "_DEPTHS", (1, 2))
    found = calibrate(DEVICE, budget_s=0.0)
    assert sorted((fit.operator, fit.dtype) for fit in found.fits) == sorted((name, "float32") for name in OPERATORS)
    assert (found.path, found.num_threads) == ("torch", torch.get_num_threads())
    assert found.fit("linear", "float32").overhead_s > 0
    assert found.fit("lm_head", "float32").memory_efficiency == found.fit("linear", "float32").memory_efficiency
    assert not found.covers("bfloat16"), "its rate is not known"
