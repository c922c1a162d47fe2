"""Splitwise's measured phases: met at their points, filled in between, with power where it was measured."""

import pytest

from steelyard.core.errors import InputError
from steelyard.cost.roofline import StepShape
from steelyard.cost.splitwise import splitwise_steps

_A100 = splitwise_steps("llama2-70b", "a100-80gb", 8)


def test_prompts_and_decodes_are_met_where_they_were_measured():
    assert _A100.estimate(StepShape.of((512, 512))).seconds == pytest.approx(0.0943, rel=1e-3)
    assert _A100.estimate(StepShape.of((4096, 4096))).seconds == pytest.approx(0.6612, rel=1e-3)
    assert _A100.estimate(StepShape.of(*[(1, 576)] * 16)).seconds == pytest.approx(0.0504, rel=1e-2)


def test_decodes_take_longer_with_context_and_never_less_than_one_alone():
    times = [_A100.estimate(StepShape.of(*[(1, context)] * 16)).seconds for context in (1, 576, 4096)]
    assert times == sorted(times)
    assert times[0] >= _A100.estimate(StepShape.of((1, 576))).seconds


def test_a_mixed_step_counts_as_prompts_of_all_its_tokens():
    mixed = StepShape.of((500, 500), *[(1, 600)] * 12)
    assert _A100.estimate(mixed).seconds == _A100.estimate(StepShape.of((512, 512))).seconds


def test_power_is_a_share_of_the_design_power():
    prompt, decode = StepShape.of((2048, 2048)), StepShape.of((1, 576))
    assert _A100.estimate(prompt).watts == pytest.approx(8 * 400 * 0.989, rel=1e-3)
    assert _A100.estimate(decode).watts == pytest.approx(8 * 400 * 0.435, rel=1e-2)
    largest = StepShape.of((60_000, 60_000))
    assert _A100.estimate(largest).watts == _A100.estimate(StepShape.of((8192, 8192))).watts
    assert splitwise_steps("llama2-70b", "h100", 8).estimate(prompt).watts is None


def test_a_slip_is_left_out():
    """64 prompts of 512 tokens on two devices came out quicker than 8 of them."""
    steps = splitwise_steps("llama2-70b", "h100", 2)
    assert steps.prompts.axes[0][-1] == 16384
    assert steps.estimate(StepShape.of((32768, 32768))).seconds > 4


def test_interpolation_errors_are_told():
    errors = _A100.errors()
    assert errors["decodes"].median < 0.03
    assert errors["prompts"].median < 0.15


def test_an_empty_step_takes_nothing():
    assert _A100.estimate(StepShape(())).seconds == 0


def test_what_was_not_measured_is_refused():
    with pytest.raises(InputError, match="tp3"):
        splitwise_steps("llama2-70b", "h100", 3)
    with pytest.raises(InputError, match="clock"):
        _A100.estimate(StepShape.of((1, 1)), clock_share=0.9)
