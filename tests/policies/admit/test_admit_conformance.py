"""What every registered admission policy, and several as one, must do: random traffic through each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.policies.admit import ADMIT_POLICIES, make_admit_policy
from steelyard.policies.admit.gate import Gate
from steelyard.policies.admit.types import AdmitPolicy, Ask, EngineLoad

VARIANTS = [
    ("concurrency", {"max_concurrent": 3, "keys": {"b": 1}}),
    ("rate", {"requests_per_min": 30.0, "tokens_per_min": 900.0, "burst_s": 10.0}),
    ("rate", {"tokens_per_min": 100.0}),
    ("rate", {}),
    ("room", {"max_waiting": 4, "kv_overcommit": 1.0, "retry_s": 0.5}),
]
MAKERS: list[Callable[[], AdmitPolicy]] = [
    *(lambda name=name, options=options: make_admit_policy(name, **options) for name, options in VARIANTS),
    lambda: Gate(tuple(make_admit_policy(name, **options) for name, options in VARIANTS)),
    lambda: Gate(()),
]
BLOCK_SIZE, NUM_BLOCKS = 16, 64
IDLE = EngineLoad(num_free_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)


def test_every_registered_policy_is_under_test():
    assert {name for name, _ in VARIANTS} == ADMIT_POLICIES.keys()


@dataclass
class House:
    """Requests that entered, one seat each up to four, the others wait."""

    inside: list[Ask]

    def load(self) -> EngineLoad:
        blocks = [-(-ask.num_tokens // BLOCK_SIZE) for ask in self.inside]
        num_running = min(4, len(blocks))
        held = min(NUM_BLOCKS, sum(blocks[:num_running]) // 2)
        return EngineLoad(
            num_running=num_running,
            num_waiting=len(blocks) - num_running,
            num_free_blocks=NUM_BLOCKS - held,
            num_promised_blocks=sum(blocks) - held,
            block_size=BLOCK_SIZE,
        )


def random_ask(rng: Random) -> Ask:
    return Ask(key=rng.choice("abc"), num_prompt_tokens=rng.randint(1, 150), max_output_tokens=rng.randint(1, 150))


@pytest.mark.parametrize("make", MAKERS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_random_traffic(make, seed):
    policy, rng, house, now_s = make(), Random(seed), House([]), 0.0
    for _ in range(60):
        now_s += rng.choice([0.0, 0.1, 1.0, 7.0])
        while house.inside and rng.random() < 0.4:
            ended = house.inside.pop(rng.randrange(len(house.inside)))
            policy.end(ended, rng.randint(0, ended.max_output_tokens), now_s)
        ask = random_ask(rng)
        answer = policy.check(ask, house.load(), now_s)
        assert policy.check(ask, house.load(), now_s) == answer, "asking changed something"
        if answer is None:
            policy.book(ask, now_s)
            house.inside.append(ask)
        else:
            assert 0 < answer.wait_s < float("inf")
            assert answer.limit
    for ended in house.inside:
        policy.end(ended, 0, now_s)
    assert nearly_fresh(policy, rng, now_s + 3600.0), "something of ended requests remained"


def nearly_fresh(policy: AdmitPolicy, rng: Random, now_s: float) -> bool:
    """Return whether every key may enter again, after an hour in which nobody did."""
    return all(policy.check(random_ask(rng), IDLE, now_s) is None for _ in range(20))


@pytest.mark.parametrize("make", MAKERS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_who_waits_as_told_while_others_leave_gets_in(make, seed):
    policy, rng, house, now_s = make(), Random(seed), House([]), 0.0
    for _ in range(25):
        ask = random_ask(rng)
        while (answer := policy.check(ask, house.load(), now_s)) is not None:
            alone = not house.inside
            for ended in house.inside:
                policy.end(ended, ended.max_output_tokens, now_s)
            house.inside.clear()
            now_s += answer.wait_s
            assert not alone or policy.check(ask, IDLE, now_s) is None, "told to wait too short"
        policy.book(ask, now_s)
        house.inside.append(ask)


@pytest.mark.parametrize("make", MAKERS)
def test_a_fresh_policy_takes_any_single_request(make):
    giant = Ask(key="a", num_prompt_tokens=10**6, max_output_tokens=10**6)
    assert make().check(giant, IDLE, 0.0) is None


@pytest.mark.parametrize("make", MAKERS)
def test_asking_leaves_no_trace(make):
    policy = make()
    before = copy.deepcopy(vars(policy))
    policy.check(random_ask(Random(0)), IDLE, 5.0)
    if not isinstance(policy, Gate):
        assert vars(policy) == before


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ParamsError, match=", ".join(ADMIT_POLICIES)) as caught:
        make_admit_policy("lottery")
    assert caught.value.field == "admit_policy"
    with pytest.raises(ParamsError, match="max_waiting, kv_overcommit, retry_s"):
        make_admit_policy("room", size=2)
