"""Steps on catalogue devices: parts by hand, degrees that divide, and how far whole steps are from measured ones."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.collectives import AlphaBeta
from steelyard.cost.llmservingsim import shipped_steps
from steelyard.cost.parallel import EFFICIENCIES, Efficiency, Experts, ParallelSteps
from steelyard.cost.roofline import ModelShape, StepShape, step_cost
from steelyard.hardware.catalogue.read import find_device

_LLAMA_8B = ModelShape(
    num_layer_params=32 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 14336),
    hidden_size=4096,
    vocab_size=128256,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    windows=(None,) * 32,
    weight_bytes=2.0,
    kv_bytes=2.0,
    dtype="bfloat16",
)
_IDEAL = Efficiency(compute=1.0, memory=1.0, layer_s=0.0)
_FREE = AlphaBeta(start_s=0.0, hop_s=0.0, bytes_per_s=1e30)
_A100 = find_device("a100-80gb")
_DECODES = StepShape.of(*[(1, 1000)] * 8)


def steps(**changes):
    return ParallelSteps(**{"model": _LLAMA_8B, "device": _A100, "efficiency": _IDEAL, "link": _FREE} | changes)


def test_one_device_at_its_peaks_is_the_roofline():
    for shape in (_DECODES, StepShape.of((2000, 2000))):
        expected = step_cost(shape, _LLAMA_8B, _A100.device).seconds
        assert steps().estimate(shape).seconds == pytest.approx(expected)


def test_tensor_parallelism_divides_and_pipelines_do_not():
    alone = steps().estimate(_DECODES).seconds
    assert steps(tp=4).estimate(_DECODES).seconds == pytest.approx(alone / 4)
    assert steps(pp=4).estimate(_DECODES).seconds == pytest.approx(alone)
    assert steps(tp=2, pp=4).num_devices == 8


def test_links_and_layers_add_what_they_take():
    slow = AlphaBeta(start_s=1.0, hop_s=0.0, bytes_per_s=1e30)
    base = steps(tp=2, pp=2).estimate(_DECODES).seconds
    assert steps(tp=2, pp=2, link=slow).estimate(_DECODES).seconds == pytest.approx(base + 2 * 32 + 1)
    layered = replace(_IDEAL, layer_s=0.5)
    assert steps(efficiency=layered).estimate(_DECODES).seconds == pytest.approx(
        steps().estimate(_DECODES).seconds + 16
    )


def test_an_empty_step_takes_the_overhead_only():
    assert steps(overhead_s=0.25).estimate(StepShape(())).seconds == 0.25


def test_a_lower_clock_slows_computing_and_not_reading():
    prompt = StepShape.of((4000, 4000))
    assert steps().estimate(prompt, clock_share=0.5).seconds > 1.9 * steps().estimate(prompt).seconds
    assert (
        steps().estimate(StepShape.of((1, 10)), clock_share=0.5).seconds
        == steps().estimate(StepShape.of((1, 10))).seconds
    )
    assert steps().estimate(prompt, clock_share=0.5).watts < steps().estimate(prompt).watts


def test_power_is_of_all_devices():
    full = steps(tp=2).estimate(StepShape.of((4000, 4000)))
    assert full.watts == pytest.approx(800)
    assert full.joules == pytest.approx(800 * full.seconds)
    assert steps(device=find_device("ascend-910b")).estimate(_DECODES).watts is None


def test_bytes_are_weights_and_keys_and_values():
    weights = 2 * (_LLAMA_8B.num_layer_params + 4096 * 128256)
    assert steps().num_bytes(_DECODES) == pytest.approx(weights + 8 * 1001 * 32 * 2 * 8 * 128 * 2)


@given(st.integers(1, 500), st.integers(1, 500))
def test_more_tokens_touch_more_experts_and_never_more_than_there_are(few, more):
    experts = Experts(count=64, per_token=8, params=10)
    assert experts.touched(few) >= 8 - 1e-9
    assert experts.touched(few) <= experts.touched(few + more) <= 64


def test_experts_are_read_once_and_spread():
    experts = Experts(count=8, per_token=2, params=1_000_000_000)
    assert experts.work(1, 2.0).num_bytes == pytest.approx(2 * 2e9)
    assert experts.work(3, 2.0).flop == 2 * 1e9 * 2 * 3
    whole = steps(experts=experts).estimate(_DECODES).seconds
    assert whole > steps().estimate(_DECODES).seconds
    slow = AlphaBeta(start_s=1.0, hop_s=0.0, bytes_per_s=1e30)
    divided = steps(experts=experts, tp=4, link=slow).estimate(_DECODES).seconds
    assert steps(experts=experts, tp=4, ep=4, link=slow).estimate(_DECODES).seconds == pytest.approx(divided + 64)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"tp": 3}, "tp"), ({"pp": 5}, "pp"), ({"tp": 4, "ep": 3}, "ep"), ({"tp": 0}, "tp")],
)
def test_degrees_that_do_not_divide_are_told_with_those_that_do(changes, field):
    with pytest.raises(InputError) as caught:
        steps(**changes)
    assert caught.value.field == field
    assert "Use one of 1, 2, 4" in (caught.value.remedy or "")


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="experts"):
        Experts(count=4, per_token=5, params=1)
    with pytest.raises(InputError, match="compute"):
        Efficiency(compute=1.5)
    with pytest.raises(InputError, match="layer_s"):
        Efficiency(layer_s=-1.0)
    with pytest.raises(InputError, match="clock_share"):
        steps().estimate(_DECODES, clock_share=0.0)
    with pytest.raises(InputError, match="bfloat16"):
        steps(device=find_device("t4"))
    with pytest.raises(InputError, match="link"):
        steps(device=find_device("sn40l"), tp=2, link=None).estimate(_DECODES)


@pytest.mark.parametrize("device", ["rtx-4090", "rtx-pro-6000"])
def test_steps_of_one_device_are_near_what_was_measured(device):
    predicted = ParallelSteps(model=_LLAMA_8B, device=find_device(device))
    for shape in (StepShape.of((512, 512)), StepShape.of(*[(1, 1024)] * 16), StepShape.of(*[(1, 1024)] * 128)):
        truth = shipped_steps(device).estimate(shape).seconds
        assert predicted.estimate(shape).seconds == pytest.approx(truth, rel=0.15)


def test_efficiencies_are_of_devices_in_the_catalogue():
    assert all(find_device(name).name == name for name in EFFICIENCIES)
