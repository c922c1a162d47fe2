"""Parts of steps with keys elsewhere: by hand, and together what a whole step of ``ParallelSteps`` takes."""

from __future__ import annotations

import pytest

from steelyard.cost.collectives import AlphaBeta
from steelyard.cost.lending import InstanceSteps, answer_bytes, query_bytes
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.roofline import StepShape
from steelyard.hardware.catalogue.read import find_device
from steelyard.plan.serving_catalogue import find_serving_model, kv_token_bytes

LINK = AlphaBeta(start_s=10e-6, hop_s=1e-6, bytes_per_s=25e9)


def instance(model: str = "llama-2-7b", **degrees: int) -> InstanceSteps:
    steps = ParallelSteps(model=find_serving_model(model), device=find_device("a100-80gb"), **degrees)
    return InstanceSteps(steps=steps, outside=LINK)


@pytest.mark.parametrize("degrees", [{}, {"tp": 2}])
def test_parts_add_up_to_a_step_when_all_is_at_home(degrees):
    one = instance(**degrees)
    whole = one.steps.estimate(StepShape.of((1, 999), (1, 1999))).seconds
    # attention_work also counts that the new tokens' own keys are written
    parts = one.dense_s(2, 2) + one.attention_s(999 + 1999, 999 + 1999 + 2)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_bytes_of_an_exchange():
    """LLaMA2-7B in float16: 32 heads of 128 there, the same back with 4 bytes per head."""
    one = instance()
    assert query_bytes(one.steps) == 4096 * 2
    assert answer_bytes(one.steps) == 4096 * 2 + 32 * 4
    assert one.kv_token_bytes == kv_token_bytes(one.steps.model) == 524_288


def test_an_exchange_by_hand():
    one = instance()
    sent = 3 * 2 * (8192 + 8320) / 25e9
    assert one.exchange_s(3, 2) == pytest.approx(32 * (2 * 11e-6 + sent))
    assert one.exchange_s(3, 2, 10) - one.exchange_s(3, 2) == pytest.approx(10 * 524_288 / 25e9)
    assert one.exchange_s(3, 0) == 0.0
    two = instance(tp=2)
    assert two.exchange_s(3, 2) == pytest.approx(32 * (2 * 11e-6 + sent / 2)), "each device talks to its counterpart"


def test_full_pipelines_share_attention_and_computing_but_read_all_weights():
    one, four = instance(tp=8), instance(tp=8, pp=4)
    assert four.attention_s(1e6, 1e6) == pytest.approx(one.attention_s(1e6, 1e6) / 4)
    assert four.dense_s(1, 1) >= one.dense_s(1, 1), "one token alone waits for every weight, and passes more links"
    assert one.dense_s(65_536, 1) / 4 < four.dense_s(65_536, 1) < one.dense_s(65_536, 1) / 3
