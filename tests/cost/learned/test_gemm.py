"""Analytic features by hand, and a predictor that multiplies its bound by what its forest says."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.learned.forest import Forest
from steelyard.cost.learned.gemm import (
    FEATURES,
    POWER_FILE,
    SLOWDOWN,
    TIME_FILE,
    WATTS,
    Gemm,
    GemmPredictor,
    Tile,
    TiledGpu,
    load_gemm_predictor,
    num_tiles,
)
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate

DEVICE = Device(
    name="test GPU",
    kind=DeviceKind.GPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 30, bandwidth_bytes_per_s=1e9),),
    peaks=(PeakRate(dtype="float32", flop_per_s=10e9),),
)
GPU = TiledGpu(device=DEVICE, num_sms=10)
SIZES = st.integers(1, 5000)


def leaf(output: str, value: float) -> Forest:
    nought = np.array([0])
    return Forest(
        feature_names=FEATURES,
        output_names=(output,),
        first_nodes=nought,
        features=nought,
        thresholds=np.zeros(1),
        left=nought,
        right=nought,
        values=np.array([[value]]),
    )


def predictor(slowdown: float = 2.0, watts: float = 90.0) -> GemmPredictor:
    return GemmPredictor(GPU, leaf(SLOWDOWN, math.log(slowdown)), leaf(WATTS, watts))


def test_rounds_of_tiles_by_hand():
    # 300 × 500 in tiles of 128 × 128: 3 × 4 = 12 tiles, two rounds on 10 SMs of 1 GFLOP/s.
    gemm = Gemm(m=300, n=500, k=1000)
    assert (num_tiles(gemm), GPU.num_rounds(gemm)) == (12, 2)
    assert GPU.compute_s(gemm) == pytest.approx(2 * 2 * 128 * 128 * 1000 / 1e9)
    features = dict(zip(FEATURES, GPU.features(gemm), strict=True))
    assert features["edge_efficiency"] == pytest.approx(300 * 500 / (384 * 512))
    assert features["round_efficiency"] == pytest.approx(12 / 20)
    assert math.exp(features["log_bytes"]) == pytest.approx(4 * (300 * 1000 + 1000 * 500 + 300 * 500))
    assert math.exp(features["log_flop"]) == pytest.approx(2 * 300 * 500 * 1000)


def test_resident_tiles_by_hand():
    # Two stages of (128 + 128) · 8 · 4 bytes are 16 KiB: six fit 100 KiB. Registers for 2 · 128² allow two.
    assert GPU.resident_tiles(Tile(128, 128, 8, 2)) == 2
    assert GPU.resident_tiles(Tile(256, 256, 32, 4)) == 1
    assert GPU.resident_tiles(Tile(32, 32, 64, 3)) == 2  # 48 KiB each


def test_memory_bounds_a_product_with_few_rows():
    gemm = Gemm(m=1, n=4096, k=4, tile=Tile(1, 4096, 4))
    assert GPU.bound_s(gemm) == pytest.approx(4 * (4 + 4 * 4096 + 4096) / 1e9)
    assert GPU.bound_s(replace(gemm, accumulates=True)) == pytest.approx(4 * (4 + 4 * 4096 + 2 * 4096) / 1e9)


@given(SIZES, SIZES, SIZES)
def test_no_bound_is_below_the_roofline_and_features_are_finite(m, n, k):
    gemm = Gemm(m=m, n=n, k=k)
    assert GPU.bound_s(gemm) >= max(gemm.flop / 10e9, gemm.num_bytes / 1e9) * (1 - 1e-12)
    assert all(math.isfinite(value) for value in GPU.features(gemm))
    assert len(GPU.features(gemm)) == len(FEATURES)


def test_the_forest_says_how_far_from_the_bound():
    found = predictor(slowdown=2.0, watts=90.0).predict(1024, 1024, 1024)
    assert found.seconds == pytest.approx(2 * GPU.bound_s(Gemm(m=1024, n=1024, k=1024)))
    assert found.watts == 90.0


def test_half_the_clock_doubles_computing_but_not_reading():
    both = predictor()
    for sizes, factor in (((1024, 1024, 1024), 2.0), ((128, 1280, 4), 1.0)):
        full, half = both.predict(*sizes), both.predict(*sizes, clock_share=0.5)
        assert half.seconds / full.seconds == pytest.approx(factor)


def test_what_was_not_measured_is_refused():
    with pytest.raises(InputError, match="nothing was measured in bfloat16"):
        predictor().predict(8, 8, 8, "bfloat16")
    with pytest.raises(InputError, match="0 is not positive"):
        predictor().predict(8, 0, 8)
    with pytest.raises(InputError, match="not positive"):
        Tile(0, 1, 1)
    with pytest.raises(InputError, match="predicts watts"):
        GemmPredictor(GPU, leaf(SLOWDOWN, 0.0), leaf(SLOWDOWN, 0.0))


def test_a_directory_keeps_the_predictor(tmp_path):
    ours = predictor()
    (tmp_path / TIME_FILE).write_bytes(ours.time.to_bytes())
    with pytest.raises(InputError, match="cannot be read"):
        load_gemm_predictor(tmp_path, GPU)
    (tmp_path / POWER_FILE).write_bytes(ours.power.to_bytes())
    assert load_gemm_predictor(tmp_path, GPU).predict(64, 64, 64) == ours.predict(64, 64, 64)
