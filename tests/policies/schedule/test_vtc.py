"""The virtual token counter: its bound on the service of tenants that wait, its lift, its shares."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_fake_engine import FakeEngine, FakeView, Job
from schedule_hand_made_view import Seq, View

from steelyard.core.errors import ParamsError
from steelyard.policies.schedule import make_schedule_policy
from steelyard.policies.schedule.types import Schedule, ScheduleLimits
from steelyard.policies.schedule.vtc import VtcConfig, VtcPolicy
from steelyard.sim.fairness import ServiceMeter

BLOCK_SIZE, LONGEST_PROMPT, LONGEST_OUTPUT = 4, 12, 10
LIMITS = ScheduleLimits(max_num_seqs=3, max_num_batched_tokens=16, block_size=BLOCK_SIZE)
NUM_BLOCKS = LIMITS.max_num_seqs * -(-(LONGEST_PROMPT + LONGEST_OUTPUT) // BLOCK_SIZE)


def bound(config: VtcConfig) -> float:
    return config.bound(
        max_num_seqs=LIMITS.max_num_seqs, max_prompt_tokens=LONGEST_PROMPT, max_output_tokens=LONGEST_OUTPUT
    )


def random_job(rng: random.Random, arrival: int, tenant: str) -> Job:
    prompt = tuple(rng.choices(range(1000), k=rng.randint(1, LONGEST_PROMPT)))
    return Job(arrival, prompt, rng.randint(1, LONGEST_OUTPUT), rng.randint(0, 2), tenant=tenant)


@st.composite
def crowds(draw: st.DrawFn) -> list[Job]:
    """Tenants of different appetite, in bursts, that often wait."""
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    rates = draw(st.lists(st.integers(1, 8), min_size=2, max_size=4))
    arrivals = sorted(draw(st.lists(st.integers(0, 60), min_size=5, max_size=60)))
    names = [str(index) for index in range(len(rates))]
    return [random_job(rng, arrival, rng.choices(names, rates)[0]) for arrival in arrivals]


@given(
    jobs=crowds(),
    input_weight=st.sampled_from([1.0, 0.1, 3.0]),
    share=st.sampled_from([1.0, 0.25, 4.0]),
    num_blocks=st.sampled_from([NUM_BLOCKS, NUM_BLOCKS // 2]),
)
@settings(max_examples=200)
def test_tenants_that_wait_are_served_alike_within_the_bound(jobs, input_weight, share, num_blocks):
    config = VtcConfig(input_weight=input_weight, shares={"1": share})
    meter = ServiceMeter(VtcPolicy(config), config)
    FakeEngine(jobs, meter, LIMITS, num_blocks).run(10_000)
    tenants = sorted({job.tenant for job in jobs})
    for one in tenants:
        for other in tenants:
            assert meter.worst_difference(one, other) <= 2 * bound(config)


@given(jobs=crowds())
@settings(max_examples=100)
def test_counters_of_those_who_wait_stay_together(jobs):
    policy = VtcPolicy(VtcConfig())

    def check(view: FakeView, schedule: Schedule) -> None:
        counters = [policy.counter(sequence.tenant) for sequence in view.waiting]
        assert not counters or max(counters) - min(counters) <= bound(policy.config)

    FakeEngine(jobs, policy, LIMITS, NUM_BLOCKS, check=check).run(10_000)


@given(jobs=crowds())
@settings(max_examples=60)
def test_the_account_agrees_with_what_was_served(jobs):
    """Nobody returns from idleness in one burst, so no lift hides a wrong charge."""
    jobs = [Job(0, job.prompt, job.num_output, job.priority, tenant=job.tenant) for job in jobs]
    config, seen = VtcConfig(), []
    policy = VtcPolicy(config)
    meter = ServiceMeter(policy, config)

    def check(view: FakeView, schedule: Schedule) -> None:
        seen.extend((policy.counter(s.tenant), meter.service[-1].get(s.tenant, 0.0)) for s in view.waiting)

    FakeEngine(jobs, meter, LIMITS, NUM_BLOCKS, check=check).run(10_000)
    assert all(counter == pytest.approx(service) for counter, service in seen)


def waits(policy: str, jobs: list[Job], tenant: str) -> list[int]:
    """Return how many steps each of a tenant's jobs took, from arrival to its end."""
    jobs = sorted(jobs, key=lambda job: job.arrival_step)
    engine = FakeEngine(jobs, make_schedule_policy(policy), LIMITS, NUM_BLOCKS)
    own = [number for number, job in enumerate(jobs) if job.tenant == tenant]
    while not engine.totals.finish_step.keys() >= set(own):
        engine.step()
    return [engine.totals.finish_step[number] - jobs[number].arrival_step for number in own]


# Until a seat is free, every running sequence may have its whole answer before it, and all their prompts.
CHUNK = LIMITS.max_num_batched_tokens - LIMITS.max_num_seqs
LONGEST_RUN = LONGEST_OUTPUT + -(-LIMITS.max_num_seqs * LONGEST_PROMPT // CHUNK) + 1


def test_a_thousand_requests_of_one_tenant_do_not_delay_another_beyond_the_bound():
    rng = random.Random(1)
    flood = [random_job(rng, 0, "attacker") for _ in range(1000)]
    light = Job(5, tuple(range(LONGEST_PROMPT)), LONGEST_OUTPUT, tenant="light")
    assert waits("vtc", [*flood, light], "light") <= [2 * LONGEST_RUN]
    assert waits("fcfs", [*flood[:100], light], "light") > [100], "this flood does delay who is not protected"


def test_a_steady_light_tenant_is_not_behind_a_flood_either():
    rng = random.Random(2)
    flood = [random_job(rng, 0, "attacker") for _ in range(1000)]
    steady = [random_job(rng, 2 * LONGEST_RUN * number, "light") for number in range(6)]
    assert max(waits("vtc", flood + steady, "light")) <= 2 * LONGEST_RUN


def test_who_was_away_does_not_live_on_what_it_did_not_use():
    rng = random.Random(3)
    early = [random_job(rng, 0, "busy") for _ in range(100)]
    late = [random_job(rng, 200, tenant) for _ in range(60) for tenant in ("busy", "back")]
    config = VtcConfig()
    meter = ServiceMeter(VtcPolicy(config), config)
    FakeEngine(early + late, meter, LIMITS, NUM_BLOCKS).run(10_000)
    assert meter.service[-1]["busy"] > 2 * bound(config), "busy must have been served while the other was away"
    assert meter.worst_difference("busy", "back") <= 2 * bound(config)


def test_shares_divide_the_machine():
    rng = random.Random(4)
    jobs = [random_job(rng, 0, tenant) for _ in range(120) for tenant in ("one", "three")]
    config = VtcConfig(shares={"three": 3.0})
    meter = ServiceMeter(VtcPolicy(config), VtcConfig())
    FakeEngine(jobs, meter, LIMITS, NUM_BLOCKS).run(100_000)
    both = [service for service, waiting in zip(meter.service, meter.waiting, strict=True) if len(waiting) == 2]
    served = both[-1]
    assert served["three"] / served["one"] == pytest.approx(3.0, rel=0.1)


def test_priority_orders_a_tenants_own_requests_and_nobody_elses():
    waiting = [
        Seq(0, 4, tenant="a", priority=5), Seq(1, 4, tenant="a", priority=0), Seq(2, 4, tenant="b", priority=9),
    ]  # fmt: skip
    schedule = make_schedule_policy("vtc")(View(waiting=waiting))
    assert [grant.sequence_id for grant in schedule.grants] == [1, 2, 0]


def test_a_single_tenant_is_served_by_arrival():
    waiting = [Seq(number, 4, arrival_s=float(number)) for number in range(5)]
    schedule = make_schedule_policy("vtc")(View(waiting=waiting[::-1]))
    assert [grant.sequence_id for grant in schedule.grants] == [0, 1, 2, 3, 4]


def test_a_new_config_counts_from_the_next_step_on():
    policy = VtcPolicy(VtcConfig())
    waiting = [Seq(0, 10, tenant="a"), Seq(1, 10, tenant="b")]
    policy(View(waiting=waiting))
    policy.reconfigure(VtcConfig(shares={"b": 10.0}))
    policy(View(running=[Seq(0, 11, 10, tenant="a"), Seq(1, 11, 10, tenant="b")], tables={0: "abc", 1: "def"}))
    assert policy.config.shares == {"b": 10.0}
    assert policy.counter("a") == 12.0
    assert policy.counter("b") == pytest.approx(1.2)


def test_counters_that_the_floor_stands_for_are_forgotten():
    policy = VtcPolicy(VtcConfig())
    for number in range(100):
        policy(View(waiting=[Seq(number, 4, tenant=str(number))]))
    for number in range(100, 110):  # this one comes back again and again, and the floor rises with it
        policy(View(waiting=[Seq(number, 4, tenant="last")]))
    assert policy._counters.keys() <= {"last"}
    assert len(policy._num_charged) <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"input_weight": 0.0}, {"output_weight": -1.0}, {"input_weight": float("nan")}, {"shares": {"a": 0.0}},
        {"shares": {"a": "much"}}, {"shares": 3}, {"output_weight": True},
    ],
)  # fmt: skip
def test_weights_and_shares_are_positive_numbers(options):
    with pytest.raises(ParamsError) as caught:
        make_schedule_policy("vtc", **options)
    assert caught.value.field in options
