"""What each admission policy promises by itself."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.policies.admit import make_admit_policy
from steelyard.policies.admit.concurrency import ConcurrencyConfig, ConcurrencyPolicy
from steelyard.policies.admit.gate import Gate
from steelyard.policies.admit.rate import RateConfig, RatePolicy, Rates, Standing
from steelyard.policies.admit.room import RoomConfig, RoomPolicy
from steelyard.policies.admit.types import Ask, EngineLoad, Refusal

IDLE = EngineLoad(num_free_blocks=100, block_size=16)


def ask(key: str = "a", prompt: int = 10, output: int = 10) -> Ask:
    return Ask(key=key, num_prompt_tokens=prompt, max_output_tokens=output)


def test_requests_per_minute_come_in_a_burst_and_then_one_by_one():
    policy = make_admit_policy("rate", requests_per_min=6.0)
    for _ in range(6):
        assert policy.check(ask(), IDLE, 0.0) is None
        policy.book(ask(), 0.0)
    assert policy.check(ask(), IDLE, 0.0) == Refusal(limit="requests_per_min", wait_s=10.0)
    assert policy.check(ask(), IDLE, 5.0) == Refusal(limit="requests_per_min", wait_s=5.0)
    assert policy.check(ask("b"), IDLE, 0.0) is None, "each key has its own buckets"
    assert policy.check(ask(), IDLE, 10.0) is None


def test_unused_tokens_come_back():
    policy = make_admit_policy("rate", tokens_per_min=120.0)
    policy.book(ask(prompt=20, output=100), 0.0)
    assert policy.check(ask(), IDLE, 0.0) == Refusal(limit="tokens_per_min", wait_s=10.0)
    policy.end(ask(prompt=20, output=100), 40, 0.0)
    assert policy.check(ask(prompt=60, output=0), IDLE, 0.0) is None
    assert policy.check(ask(prompt=61, output=0), IDLE, 0.0) is not None


def test_a_request_larger_than_the_bucket_waits_for_a_full_one_and_leaves_a_debt():
    policy = make_admit_policy("rate", tokens_per_min=60.0)
    policy.book(ask(prompt=150, output=10), 0.0)
    assert policy.check(ask(prompt=1, output=0), IDLE, 0.0) == Refusal(limit="tokens_per_min", wait_s=101.0)
    assert policy.check(ask(prompt=500, output=0), IDLE, 0.0) == Refusal(limit="tokens_per_min", wait_s=160.0)


@given(seed=st.integers(0, 1 << 32), rate=st.floats(1.0, 600.0), burst_s=st.floats(0.5, 120.0))
@settings(max_examples=100)
def test_no_interval_sees_more_than_burst_and_rate_and_one_request(seed, rate, burst_s):
    policy = make_admit_policy("rate", tokens_per_min=rate, burst_s=burst_s)
    rng, now_s, entered = Random(seed), 0.0, []
    for _ in range(80):
        now_s += rng.expovariate(1.0)
        one = ask(prompt=rng.randint(1, 30), output=0)
        if policy.check(one, IDLE, now_s) is None:
            policy.book(one, now_s)
            entered.append((now_s, one.num_tokens))
    for start, (start_s, _) in enumerate(entered):
        total = 0
        for end_s, num_tokens in entered[start:]:
            total += num_tokens
            assert total <= (burst_s + end_s - start_s) * rate / 60 + 30 + 1e-6


def test_a_key_is_told_how_it_stands():
    policy = RatePolicy(RateConfig(default=Rates(tokens_per_min=60.0), burst_s=30.0))
    assert policy.standing("a", "requests_per_min", 0.0) is None
    whole = policy.standing("a", "tokens_per_min", 0.0)
    assert whole == Standing(allowed=30.0, remaining=30.0, full_in_s=0.0)
    policy.book(Ask(key="a", num_prompt_tokens=40, max_output_tokens=10), 0.0)
    assert policy.standing("a", "tokens_per_min", 0.0) == Standing(allowed=30.0, remaining=0.0, full_in_s=50.0)
    assert policy.standing("a", "tokens_per_min", 25.0) == Standing(allowed=30.0, remaining=5.0, full_in_s=25.0)
    assert policy.standing("b", "tokens_per_min", 25.0) == whole


def test_keys_have_rates_of_their_own_and_these_can_change():
    policy = RatePolicy(RateConfig(keys={"slow": Rates(requests_per_min=1.0)}))
    policy.book(ask("slow"), 0.0)
    policy.book(ask("free"), 0.0)
    assert policy.check(ask("slow"), IDLE, 0.0) == Refusal(limit="requests_per_min", wait_s=60.0)
    assert policy.check(ask("free"), IDLE, 0.0) is None
    policy.reconfigure(RateConfig(keys={"slow": Rates(requests_per_min=60.0)}))
    assert policy.config.keys["slow"].requests_per_min == 60.0
    assert policy.check(ask("slow"), IDLE, 0.0) == Refusal(limit="requests_per_min", wait_s=1.0)
    policy.reconfigure(RateConfig())
    assert policy.check(ask("slow"), IDLE, 0.0) is None


def test_concurrency_counts_who_is_inside():
    policy = ConcurrencyPolicy(ConcurrencyConfig(max_concurrent=2, keys={"b": 1}, retry_s=3.0))
    policy.book(ask(), 0.0)
    policy.book(ask("b"), 0.0)
    assert policy.check(ask(), IDLE, 0.0) is None
    assert policy.check(ask("b"), IDLE, 0.0) == Refusal(limit="max_concurrent", wait_s=3.0)
    policy.book(ask(), 0.0)
    assert policy.check(ask(), IDLE, 0.0) is not None
    policy.reconfigure(ConcurrencyConfig(max_concurrent=3))
    assert policy.config.max_concurrent == 3
    assert policy.check(ask(), IDLE, 0.0) is None
    for key in ("a", "a", "b"):
        policy.end(ask(key), 1, 0.0)
    assert not policy._num_inside


def test_without_a_number_nobody_is_counted_out():
    policy = ConcurrencyPolicy(ConcurrencyConfig(keys={"b": 1, "c": None}))
    for key in "aabbcc":
        policy.book(ask(key), 0.0)
    assert [policy.check(ask(key), IDLE, 0.0) is None for key in "abc"] == [True, False, True]


def busy(*, waiting: int = 0, free: int = 100, promised: int = 0) -> EngineLoad:
    return EngineLoad(
        num_running=1, num_waiting=waiting, num_free_blocks=free, num_promised_blocks=promised, block_size=16
    )


def test_room_is_bounded_by_the_queue_and_by_predicted_memory():
    policy = RoomPolicy(RoomConfig(max_waiting=2, kv_overcommit=2.0, retry_s=0.5))
    assert policy.check(ask(), busy(waiting=1), 0.0) is None
    assert policy.check(ask(), busy(waiting=2), 0.0) == Refusal(limit="max_waiting", wait_s=0.5)
    assert policy.check(ask(prompt=32, output=32), busy(free=10, promised=16), 0.0) is None
    assert policy.check(ask(prompt=32, output=33), busy(free=10, promised=16), 0.0) == Refusal(
        limit="kv_overcommit", wait_s=0.5
    )
    policy.reconfigure(RoomConfig(max_waiting=2))
    assert policy.check(ask(prompt=32, output=33), busy(free=0, promised=1000), 0.0) is None
    policy.reconfigure(RoomConfig(max_waiting=3, kv_overcommit=3.0))
    assert policy.config.max_waiting == 3
    assert policy.check(ask(prompt=32, output=33), busy(waiting=2, free=10, promised=16), 0.0) is None


def test_a_gate_refuses_for_the_longest_wait_and_books_with_all():
    rate, inside = make_admit_policy("rate", requests_per_min=1.0), make_admit_policy("concurrency", max_concurrent=1)
    gate = Gate((rate, inside))
    assert gate.check(ask(), IDLE, 0.0) is None
    gate.book(ask(), 0.0)
    assert gate.check(ask(), IDLE, 0.0) == Refusal(limit="requests_per_min", wait_s=60.0)
    assert gate.check(ask(), IDLE, 60.0) == Refusal(limit="max_concurrent", wait_s=1.0)
    gate.end(ask(), 10, 60.0)
    assert gate.check(ask(), IDLE, 60.0) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rate", {"requests_per_min": 0.0}),
        ("rate", {"tokens_per_min": float("inf")}),
        ("rate", {"burst_s": -1.0}),
        ("rate", {"keys": {"a": 3.0}}),
        ("concurrency", {"max_concurrent": 0}),
        ("concurrency", {"max_concurrent": True}),
        ("concurrency", {"retry_s": 0.0}),
        ("room", {"max_waiting": 1.5}),
        ("room", {"kv_overcommit": 0.0}),
        ("room", {"retry_s": float("nan")}),
    ],
)
def test_parameters_are_checked(name, options):
    with pytest.raises(ParamsError) as caught:
        make_admit_policy(name, **options)
    assert caught.value.field in options


@given(
    rate=st.floats(1.0, 6000.0),
    burst_s=st.floats(1.0, 120.0),
    steps=st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 300), st.integers(0, 300)), max_size=12),
    asked=st.integers(1, 400),
)
def test_what_is_told_to_remain_is_what_is_let_in(rate, burst_s, steps, asked):
    """The headers and the gate speak of one bucket: all that remains may be had at once, and nothing beyond it."""
    policy, now = RatePolicy(RateConfig(default=Rates(tokens_per_min=rate), burst_s=burst_s)), 0.0
    for wait_s, num_tokens, num_used in steps:
        now += wait_s
        one = Ask(key="a", num_prompt_tokens=0, max_output_tokens=num_tokens)
        if policy.check(one, IDLE, now) is None:
            policy.book(one, now)
            policy.end(one, min(num_used, num_tokens), now)
    told = policy.standing("a", "tokens_per_min", now)
    assert told is not None
    assert 0.0 <= told.remaining <= told.allowed
    refusal = policy.check(Ask(key="a", num_prompt_tokens=asked, max_output_tokens=0), IDLE, now)
    if asked <= told.remaining or told.full_in_s == 0.0:
        assert refusal is None
    elif asked <= told.allowed and asked > told.remaining + 1e-6 * told.allowed:
        assert refusal is not None
        assert refusal.wait_s <= told.full_in_s + 1e-9
    full = policy.standing("a", "tokens_per_min", now + told.full_in_s)
    assert full is not None
    assert full.remaining == pytest.approx(full.allowed)
