"""Phases on pools of their own: times by hand, no request lost, links that are shared, the same twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.cost.roofline import StepShape
from steelyard.plan.phases import HandedOver, Instance, Limits, Link, Pool, serve_apart
from steelyard.sim.traces.types import Trace, TraceRequest

# Milliseconds: a prompt of n tokens takes 10 + 0.1 n, a decode of any context 20.
STEPS = FittedSteps(
    prefill=Polynomial(10.0, 0.1, 0.0),
    decode_small=Polynomial(20.0, 0.0, 0.0),
    decode_large=Polynomial(20.0, 0.0, 0.0),
    threshold=100,
)
NO_TIME = Link(seconds_per_token=0.0)


def pool(count: int = 1, num_kv_tokens: int = 8192, **limits: int) -> Pool:
    instance = Instance(name="one", steps=STEPS, num_kv_tokens=num_kv_tokens)
    return Pool(instance=instance, count=count, limits=replace(Limits(max_model_len=1024), **limits))


def trace(*requests: tuple[float, int, int]) -> Trace:
    return Trace(name="by hand", requests=tuple(TraceRequest(*one) for one in requests))


def test_one_request_takes_the_sum_of_its_parts():
    (found,) = serve_apart(trace((0.0, 100, 5)), pool(), pool(), NO_TIME)
    assert found.ttft_s == pytest.approx(0.010 + 0.0001 * 100)
    assert found.tpot_s == pytest.approx(0.020)
    assert found.num_tokens == found.num_output_tokens == 5
    assert found.e2e_s == pytest.approx(0.020 + 4 * 0.020)


def test_crossing_delays_the_second_token_not_the_first():
    link = Link(seconds_per_token=0.001, latency_s=0.05)
    (found,) = serve_apart(trace((0.0, 100, 5)), pool(), pool(), link)
    assert found.ttft_s == pytest.approx(0.020)
    assert found.e2e_s == pytest.approx(0.020 + 0.150 + 4 * 0.020)


def test_one_token_crosses_nothing():
    (found,) = serve_apart(trace((0.0, 100, 1)), pool(), pool(), Link(seconds_per_token=9.0))
    assert found.e2e_s == found.ttft_s == pytest.approx(0.020)
    assert found.tpot_s is None


def test_a_link_carries_one_prompt_at_a_time():
    link = Link(seconds_per_token=0.01, latency_s=0.1)
    ready = [(0.0, 100), (0.5, 10), (0.6, 10)]  # 1.1 s, 0.2 s, 0.2 s
    assert link.crossed_s(ready, 1) == pytest.approx([1.1, 1.3, 1.5])
    assert link.crossed_s(ready, 2) == pytest.approx([1.1, 0.7, 0.9])
    assert link.crossed_s(ready, 3) == pytest.approx([1.1, 0.7, 0.8])


def test_prompts_that_are_done_close_together_wait_for_the_link():
    link = Link(seconds_per_token=0.01)
    both = trace((0.0, 100, 2), (0.0, 100, 2))  # prefilled one after the other, then a second of transfer each
    first, second = serve_apart(both, pool(), pool(), link)
    assert [first.ttft_s, second.ttft_s] == pytest.approx([0.020, 0.040])
    assert first.e2e_s == pytest.approx(0.020 + 1.0 + 0.020)
    assert second.e2e_s == pytest.approx(0.020 + 2.0 + 0.020)


def test_requests_that_overtake_on_links_keep_their_own_figures():
    long, short = serve_apart(trace((0.0, 900, 2), (0.001, 10, 9)), pool(2), pool(), Link(seconds_per_token=0.01))
    assert (long.number, long.num_tokens) == (0, 2)
    assert (short.number, short.num_tokens) == (1, 9)
    assert long.end_s == pytest.approx(0.100 + 9.0 + 0.020)
    assert short.end_s == pytest.approx(0.001 + 0.011 + 0.1 + 8 * 0.020)


def test_prompts_that_are_handed_over_need_no_steps_of_their_own():
    shape = StepShape.of((500, 500), (1, 70))
    assert HandedOver(STEPS).estimate(shape) == STEPS.estimate(StepShape.of((1, 500), (1, 70)))
    many = trace(*[(0.0, 1000, 2)] * 4)
    decode = pool(max_num_batched_tokens=128)
    slow, quick = (serve_apart(many, pool(4), one, NO_TIME) for one in (decode, pool()))
    assert [one.end_s for one in slow] == [one.end_s for one in quick]


def test_a_pipeline_is_several_engines_with_a_part_of_the_room_each():
    two = trace((0.0, 100, 3), (0.0, 100, 3))
    one = pool(num_kv_tokens=2048)
    staged = replace(one, instance=replace(one.instance, stages=2))
    assert [record.ttft_s for record in staged.prefill(two)] == pytest.approx([0.020, 0.020])
    assert [record.ttft_s for record in one.prefill(two)] == pytest.approx([0.020, 0.040])
    assert pool(3).price == 3.0


def test_a_request_that_is_too_long_ends_once_and_with_an_error():
    found = serve_apart(trace((0.0, 1030, 10), (0.1, 10, 10)), pool(), pool(), NO_TIME)
    assert [one.is_done for one in found] == [False, True]
    assert found[0].outcome.endswith("Error")
    assert found[0].e2e_s is None


REQUESTS = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 900), st.integers(1, 40)), min_size=1, max_size=25)


@settings(max_examples=25, deadline=None)
@given(REQUESTS, st.integers(1, 3), st.integers(1, 3), st.floats(0, 1e-3))
def test_every_request_ends_once_after_its_first_token_and_the_same_twice(requests, first, second, seconds_per_token):
    given_trace = trace(*sorted(requests))
    link = Link(seconds_per_token=seconds_per_token, latency_s=1e-3)
    decode = pool(second, num_kv_tokens=1024, max_num_seqs=4)
    found = serve_apart(given_trace, pool(first), decode, link)
    assert [one.number for one in found] == list(range(len(requests)))
    for record, one in zip(found, given_trace.requests, strict=True):
        assert record.is_done
        assert record.num_tokens == record.num_output_tokens == one.num_output_tokens
        assert record.arrival_s == one.arrival_s
        least_s = link.seconds(one.num_prompt_tokens) + 0.020 * (one.num_output_tokens - 1)
        assert record.ttft_s >= 0.010
        assert one.num_output_tokens == 1 or record.end_s - record.first_token_s >= least_s - 1e-9
    assert serve_apart(given_trace, pool(first), decode, link) == found
