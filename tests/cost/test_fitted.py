"""Fitted step times: the published polynomials, at their own points and between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.fitted import FittedSteps, Polynomial, distserve_kv_tokens, distserve_steps
from steelyard.cost.roofline import StepShape

STEPS = FittedSteps(
    prefill=Polynomial(10.0, 0.1, 1e-5),
    decode_small=Polynomial(20.0, 1e-3, 0.1),
    decode_large=Polynomial(5.0, 1e-3, 0.3),
    threshold=2,
)


def test_prompts_decodes_and_both():
    assert STEPS.estimate(StepShape.of((100, 100), (200, 200))).seconds == pytest.approx(
        1e-3 * (10 + 0.1 * 300 + 1e-5 * (100**2 + 200**2))
    )
    assert STEPS.estimate(StepShape.of((1, 50), (1, 70))).seconds == pytest.approx(1e-3 * (20 + 1e-3 * 120 + 0.1 * 2))
    assert STEPS.estimate(StepShape.of(*[(1, 10)] * 3)).seconds == pytest.approx(1e-3 * (5 + 1e-3 * 30 + 0.3 * 3))
    mixed = STEPS.estimate(StepShape.of((100, 100), (1, 50))).seconds
    assert mixed == pytest.approx(1e-3 * (20 + 0.1 * 100 + 1e-5 * 100**2 + 1e-3 * 50 + 0.1))
    assert STEPS.estimate(StepShape(())).seconds == 0.0
    assert STEPS.estimate(StepShape(())).watts is None


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_chunks_of_a_prompt_grow_as_the_whole_prompt_does(chunks):
    chunks = [max(2, chunk) for chunk in chunks]
    end, growth_s = 0, 0.0
    for chunk in chunks:
        end += chunk
        growth_s += STEPS.estimate(StepShape.of((chunk, end))).seconds - 1e-2
    assert growth_s == pytest.approx(STEPS.estimate(StepShape.of((end, end))).seconds - 1e-2)


def test_the_published_profiles_are_there_and_more_devices_are_faster():
    times = [distserve_steps("opt-66b", "distserve", tp).estimate(StepShape.of((512, 512))).seconds for tp in (2, 4, 8)]
    assert times == sorted(times, reverse=True)
    expected_ms = 18.102546 + 0.10191226 * 1024 + 7.1222643e-06 * 1024**2
    one = distserve_steps("opt-13b", "distserve", 1).estimate(StepShape.of((1024, 1024)))
    assert one.seconds == pytest.approx(1e-3 * expected_ms)


def test_room_grows_with_devices_and_what_nobody_stated_is_refused():
    assert distserve_kv_tokens("opt-66b", 2, 2) == 78512
    assert distserve_kv_tokens("opt-66b", 2, 1) < distserve_kv_tokens("opt-66b", 4, 1)
    with pytest.raises(InputError, match="tp1pp2"):
        distserve_kv_tokens("opt-66b", 1, 1)
    with pytest.raises(InputError, match="Use opt-13b, opt-66b"):
        distserve_kv_tokens("opt-30b", 1, 1)


def test_what_nobody_measured_is_refused():
    with pytest.raises(InputError, match="opt-13b distserve tp1"):
        distserve_steps("opt-13b", "distserve", 3)
    with pytest.raises(InputError, match="clock"):
        STEPS.estimate(StepShape(()), clock_share=0.8)
