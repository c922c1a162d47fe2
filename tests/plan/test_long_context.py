"""The four costs of long contexts: what they are made of, how they grow, and what does not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.plan.long_context import ContextJob, context_costs, context_reasons
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model, kv_token_bytes, weights_bytes


def make_job(model: str = "yi-34b-200k", device: str = "a100-80gb", **changes: int) -> ContextJob:
    return ContextJob(model=find_serving_model(model), device=find_serving_device(device), **changes)


def test_cache_switch_and_decoding_by_hand():
    job = make_job()
    costs = context_costs(job, 50_000)
    assert costs.kv_bytes == 50_000 * 2 * 60 * 8 * 128 * 2
    assert costs.switch_s == pytest.approx(2 * costs.kv_bytes / job.device.host_bytes_per_s)
    read = job.model.num_layer_params * 2 + job.model.hidden_size * job.model.vocab_size * 2
    assert costs.decode_s == pytest.approx(250 * (read + costs.kv_bytes) / 2039e9, rel=1e-3)


@given(st.integers(1, 200_000), st.integers(1, 8))
def test_concurrency_is_what_the_weights_leave(length, devices):
    job = make_job(num_devices=devices)
    costs = context_costs(job, length)
    assert costs.concurrency * costs.kv_bytes <= job.room_bytes < (costs.concurrency + 1) * costs.kv_bytes
    assert (costs.concurrency >= 1) == (length <= job.longest_context)


def test_every_cost_rises_with_length_and_falls_with_devices():
    short, long = (context_costs(make_job(), length) for length in (4_000, 50_000))
    shared = context_costs(make_job(num_devices=4), 50_000)
    for name in ("kv_bytes", "prefill_s", "decode_s", "switch_s"):
        assert getattr(short, name) < getattr(long, name)
    for name in ("prefill_s", "decode_s", "switch_s"):
        assert getattr(shared, name) == pytest.approx(getattr(long, name) / 4)
    assert short.concurrency > long.concurrency


def test_attention_is_the_part_of_prefill_that_grows_with_the_square():
    one, two = (context_costs(make_job(), length) for length in (50_000, 100_000))
    assert two.prefill_attention_s == pytest.approx(4 * one.prefill_attention_s, rel=1e-4)
    assert two.prefill_s - two.prefill_attention_s == pytest.approx(
        2 * (one.prefill_s - one.prefill_attention_s), rel=1e-4
    )


def test_weights_that_do_not_fit_are_told_with_the_devices_that_do():
    with pytest.raises(MemoryBudgetError, match=r"1 × l4") as caught:
        make_job(device="l4")
    assert caught.value.remedy is not None
    assert "Take 3 of them" in caught.value.remedy
    assert make_job(device="l4", num_devices=3).room_bytes > 0


@pytest.mark.parametrize("name", ["num_devices", "answer_tokens"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ParamsError, match="below 1"):
        make_job(**{name: 0})
    with pytest.raises(ParamsError, match="below 1"):
        context_costs(make_job(), 0)


def test_reasons_name_the_length_that_still_fits():
    job = make_job()
    told = context_reasons(job, tuple(context_costs(job, length) for length in (4_000, 200_000)))
    assert "Memory binds" in told[-1]
    assert str(job.longest_context) in told[-1]
    assert len(context_reasons(job, (context_costs(job, 4_000),))) == 1


def test_weights_and_cache_of_a_known_model():
    model = find_serving_model("llama-2-7b")
    assert weights_bytes(model) / 2 == pytest.approx(6.738e9, rel=1e-3)
    assert kv_token_bytes(model) == 524_288
