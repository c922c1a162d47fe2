"""Forecasts of a model's speed: from operators to the two numbers a user sees."""

from dataclasses import replace

import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import operator_costs, total_s
from steelyard.cost.roofline import ModelShape, StepShape
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate
from steelyard.plan.speed import forecast

MODEL = ModelShape(
    num_layer_params=100_000, hidden_size=64, vocab_size=500, num_heads=4, num_kv_heads=2, head_dim=16,
    windows=(None, None),
)  # fmt: skip
DEVICE = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1, bandwidth_bytes_per_s=1e9),),
    peaks=(PeakRate(dtype="float32", flop_per_s=1e10),),
)
CALIBRATION = Calibration(path="torch", fits=(OperatorFit(operator="step", dtype="float32", overhead_s=0.5),))


def test_prefill_and_decode_are_steps_of_their_shape():
    speed = forecast(MODEL, DEVICE, CALIBRATION, prompt_tokens=100, output_tokens=40, batch=3)
    prefill = total_s(operator_costs(MODEL, StepShape.of(*[(100, 100)] * 3), DEVICE, CALIBRATION))
    decode = total_s(operator_costs(MODEL, StepShape.of(*[(1, 120)] * 3), DEVICE, CALIBRATION))
    assert (speed.prefill.predicted_s, speed.prefill.limit_s) == prefill
    assert (speed.decode.predicted_s, speed.decode.limit_s) == decode
    assert speed.context == 120
    assert speed.prefill_tokens_per_s == pytest.approx(300 / prefill[0])
    assert speed.prefill_limit_per_s == pytest.approx(300 / prefill[1])
    assert speed.decode_tokens_per_s == pytest.approx(1 / decode[0])
    assert speed.decode_limit_per_s == pytest.approx(1 / decode[1])
    assert speed.decode_tokens_per_s < 2 < speed.decode_limit_per_s, "half a second a step, of overhead alone"


@pytest.mark.parametrize("calibration", [None, Calibration(path="torch", fits=())])
def test_without_factors_of_the_format_only_the_limit_is_known(calibration):
    speed = forecast(MODEL, DEVICE, calibration, prompt_tokens=8)
    assert speed.prefill.predicted_s is speed.prefill_tokens_per_s is speed.decode_tokens_per_s is None
    assert speed.decode_limit_per_s > 0


def test_what_cannot_be_forecast():
    for field in ("prompt_tokens", "output_tokens", "batch"):
        with pytest.raises(ParamsError) as caught:
            forecast(MODEL, DEVICE, None, **{"prompt_tokens": 1, field: 0})
        assert caught.value.field == field
    with pytest.raises(InputError, match="bfloat16 is not known"):
        forecast(replace(MODEL, dtype="bfloat16"), DEVICE, None, prompt_tokens=1)
