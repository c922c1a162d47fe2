"""The native path's factors: solved by hand, and found on small packed decoders."""

from __future__ import annotations

import pytest
import torch

from steelyard.cost.operators import OPERATORS
from steelyard.cost.roofline import StepShape
from steelyard.engine import native_calibration as module
from steelyard.engine.calibration_steps import decode_step_s, small_llama
from steelyard.engine.native_calibration import (
    Sides,
    calibrate_native,
    decoder_runner,
    decoder_shape,
    random_decoder,
    solve,
    timed_step,
)
from steelyard.hardware.device import Cache, Device, DeviceKind, MemoryTier, PeakRate
from steelyard.kernels.native import native_available

pytestmark = [pytest.mark.native, pytest.mark.skipif(not native_available(), reason="the extension is not built")]

DEVICE = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 30, bandwidth_bytes_per_s=1e10),),
    peaks=(PeakRate(dtype="int8", flop_per_s=1e12),),
    caches=(Cache(level=1, capacity_bytes=1 << 16),),
)
TINY = small_llama(2, hidden_size=64, feed_forward_size=64, num_heads=1, num_kv_heads=1, vocab_size=256)


@pytest.mark.parametrize(("compute", "memory", "overlap"), [(0.5, 0.8, 0.25), (0.9, 1.5, 1.0), (0.3, 0.2, 0.0)])
def test_three_timings_give_back_the_factors_that_made_them(compute, memory, overlap):
    def timed(compute_s: float, memory_s: float) -> Sides:
        sides = compute_s / compute, memory_s / memory
        return Sides(compute_s, memory_s, max(sides) + (1 - overlap) * min(sides))

    found = solve(timed(0.05, 1.0), timed(10.0, 0.1), timed(1.0, 1.0))
    assert found == pytest.approx((compute, memory, overlap), rel=1e-3, abs=1e-3)


def test_without_a_mixed_step_the_shorter_side_is_hidden():
    assert solve(Sides(9.0, 1.0, 2.0), Sides(1.0, 9.0, 4.0), None) == (0.25, 0.5, 1.0)


def test_sides_that_are_known_to_follow_one_another():
    compute, memory, overlap = solve(Sides(1.0, 4.0, 10.0), Sides(8.0, 0.0, 16.0), None, hidden=0.0)
    assert (compute, memory, overlap) == pytest.approx((0.5, 0.5, 0.0))


def test_noise_gives_no_impossible_factors():
    compute, memory, overlap = solve(Sides(1.0, 1.0, 0.1), Sides(1.0, 1.0, 0.1), Sides(1.0, 1.0, 50.0))
    assert compute > 0
    assert memory > 0
    assert overlap == 0


def test_a_random_decoder_is_what_its_description_says_and_computes_numbers():
    decoder = random_decoder(TINY)
    runner = decoder_runner(decoder, 4)
    shape = decoder_shape(decoder, runner)
    assert (shape.dtype, shape.num_layers, shape.weight_bytes) == ("int8", 2, 0.625)
    assert shape.head_weight_bytes == pytest.approx(1.0625)
    timed = timed_step(decoder, StepShape.of((3, 20), (1, 5)), 0.0)
    assert set(timed.seconds) == set(OPERATORS) - {"step"}
    assert all(seconds > 0 for seconds in timed.seconds.values())
    logits = runner.logits(torch.ones(1, 64))
    assert bool(torch.isfinite(logits).all())
    assert decode_step_s(runner, TINY.vocab_size, 2) > 0


def test_finds_every_operator(monkeypatch):
    monkeypatch.setattr(module, "_DEEP_BYTES", (1 << 20, 1 << 20))
    monkeypatch.setattr(module, "_PROMPT", 32)
    monkeypatch.setattr(module, "_CONTEXT", 32)
    found = calibrate_native(DEVICE, budget_s=0.0)
    assert [(fit.operator, fit.dtype) for fit in found.fits] == [(name, "int8") for name in OPERATORS]
    assert (found.path, found.num_threads) == ("native", torch.get_num_threads())
    linear = found.fit("linear", "int8")
    assert linear.cached_efficiency is not None
    assert linear.cached_efficiency >= linear.memory_efficiency
