"""What each policy's own order promises, and the registry."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from schedule_fake_engine import FakeEngine, FakeView, Job, Totals
from schedule_hand_made_view import Seq, View

from steelyard.core.errors import ParamsError
from steelyard.policies.schedule import SCHEDULE_POLICIES, make_schedule_policy
from steelyard.policies.schedule.priority import PriorityConfig
from steelyard.policies.schedule.shortest_first import ShortestFirstConfig
from steelyard.policies.schedule.types import Grant, Schedule, ScheduleLimits

ONE_SEAT = ScheduleLimits(max_num_seqs=1, max_num_batched_tokens=64, block_size=4)


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(1000), k=length))


def run(jobs: list[Job], name: str, *, limits: ScheduleLimits = ONE_SEAT, num_blocks: int = 64, **options) -> Totals:
    step_s = options.pop("step_s", 0.1)
    return FakeEngine(jobs, make_schedule_policy(name, **options), limits, num_blocks, step_s=step_s).run(10_000)


def test_fcfs_finishes_by_arrival_whatever_size_and_priority():
    jobs = [Job(0, prompt(0, 50), 9), Job(0, prompt(1, 3), 2, priority=-5), Job(1, prompt(2, 1), 1)]
    assert run(jobs, "fcfs").finished == [0, 1, 2]


def test_fcfs_readmits_a_preempted_sequence_before_later_arrivals():
    limits = ScheduleLimits(max_num_seqs=2, max_num_batched_tokens=64, block_size=4)
    jobs = [Job(0, prompt(0, 4), 20), Job(0, prompt(1, 4), 20), Job(0, prompt(2, 4), 20)]
    totals = run(jobs, "fcfs", limits=limits, num_blocks=7)
    assert totals.num_preemptions >= 1
    assert totals.finished == [0, 1, 2]


def test_priority_goes_before_arrival():
    jobs = [Job(0, prompt(i, 4), 3, priority=priority) for i, priority in enumerate([2, 1, 0, 1])]
    assert run(jobs, "priority").finished == [2, 1, 3, 0]


def test_an_urgent_newcomer_waits_for_a_seat_unless_told_to_preempt():
    jobs = [Job(0, prompt(0, 4), 20, priority=5), Job(2, prompt(1, 4), 3, priority=0)]
    assert run(jobs, "priority").finished == [0, 1]
    totals = run(jobs, "priority", preempt_for_seats=True)
    assert totals.finished == [1, 0]
    assert totals.num_preemptions == 1


def test_an_urgent_newcomer_gets_blocks_too():
    limits = dataclasses.replace(ONE_SEAT, max_num_seqs=4)
    jobs = [Job(0, prompt(0, 30), 12, priority=5), Job(2, prompt(1, 30), 3, priority=0)]
    assert run(jobs, "priority", limits=limits, num_blocks=12).finished == [0, 1]
    assert run(jobs, "priority", limits=limits, num_blocks=12, preempt_for_seats=True).finished == [1, 0]


@pytest.mark.parametrize("priority", [5, 0])
def test_seats_are_not_taken_from_the_equally_or_more_urgent(priority):
    jobs = [Job(0, prompt(0, 4), 20, priority=0), Job(2, prompt(1, 4), 3, priority=priority)]
    assert run(jobs, "priority", preempt_for_seats=True).num_preemptions == 0


def test_seats_are_not_taken_from_the_starving():
    jobs = [Job(0, prompt(0, 4), 20, priority=5), Job(10, prompt(1, 4), 3, priority=0)]
    assert run(jobs, "priority", preempt_for_seats=True, starvation_s=0.5).finished == [0, 1]


def test_shortest_prompt_goes_first():
    jobs = [Job(0, prompt(i, length), 2) for i, length in enumerate([40, 10, 20, 10])]
    assert run(jobs, "shortest_first").finished == [1, 3, 2, 0]


def test_what_is_computed_of_a_prompt_no_longer_counts():
    long, short, decode = Seq(0, 40, 36, num_prompt_tokens=40), Seq(1, 10, 0, 10), Seq(2, 9, 8, num_prompt_tokens=8)
    view = View(running=[short, long, decode], tables={0: "abcdefghi", 1: "", 2: "xyz"}, budget=8)
    grants = make_schedule_policy("shortest_first")(view).grants
    assert grants == (Grant(2, 1), Grant(0, 4), Grant(1, 3))


def test_shortest_first_preempts_prefills_before_decodes():
    limits = ScheduleLimits(max_num_seqs=4, max_num_batched_tokens=4, block_size=4)
    preempted: list[int] = []

    def check(view: FakeView, schedule: Schedule) -> None:
        preempted.extend(schedule.preempt)

    jobs = [Job(0, prompt(0, 4), 30), Job(0, prompt(1, 25), 1)]
    engine = FakeEngine(jobs, make_schedule_policy("shortest_first"), limits, 10, check=check, caching=False)
    engine.run(500)
    assert set(preempted) <= {1}


@pytest.mark.parametrize(
    ("name", "favourite"),
    [("priority", {"priority": 0, "length": 8}), ("shortest_first", {"priority": 9, "length": 1})],
)
def test_a_flood_of_favourites_delays_nobody_beyond_the_bound(name, favourite):
    victim = Job(0, prompt(0, 8), 4, priority=9)
    flood = [Job(step, prompt(step, favourite["length"]), 4, favourite["priority"]) for step in range(200)]
    bound_s, step_s = 3.0, 0.1
    totals = run([flood[0], victim, *flood[1:]], name, starvation_s=bound_s, step_s=step_s)
    own_and_one_before = 2 * 4
    assert totals.finish_step[1] <= bound_s / step_s + own_and_one_before + 1
    unbounded = run([flood[0], victim, *flood[1:]], name, starvation_s=1e9, step_s=step_s)
    assert unbounded.finished[-1] == 1


@pytest.mark.parametrize("name", SCHEDULE_POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_cache_with_room_for_barely_one_still_finishes_everything(name, seed):
    generator = random.Random(seed)
    jobs = [
        Job(i, prompt(i, generator.randint(1, 30)), generator.randint(1, 30), generator.randint(0, 2))
        for i in range(25)
    ]
    num_blocks = max(-(-job.num_tokens // 4) for job in jobs)
    limits = ScheduleLimits(max_num_seqs=8, max_num_batched_tokens=16, block_size=4)
    totals = run(jobs, name, limits=limits, num_blocks=num_blocks)
    assert sorted(totals.finished) == list(range(25))
    num_needed = sum(job.num_tokens for job in jobs)
    assert totals.num_computed_tokens <= 2 * num_needed, "most of the work is recomputation"


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ParamsError, match=", ".join(SCHEDULE_POLICIES)):
        make_schedule_policy("lifo")
    with pytest.raises(ParamsError, match="starvation_s, preempt_for_seats") as caught:
        make_schedule_policy("priority", starvation=3)
    assert caught.value.field == "starvation"
    with pytest.raises(ParamsError, match="Valid options: none"):
        make_schedule_policy("fcfs", starvation_s=3.0)


@pytest.mark.parametrize("config", [PriorityConfig, ShortestFirstConfig])
@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan, "soon", True, None])
def test_a_starvation_bound_is_a_finite_number_of_seconds(config, wrong):
    with pytest.raises(ParamsError) as caught:
        config(starvation_s=wrong)
    assert caught.value.field == "starvation_s"


def test_the_default_bound_is_thirty_seconds():
    assert PriorityConfig().starvation_s == ShortestFirstConfig().starvation_s == 30.0


def test_prefill_first_lets_decodes_wait_for_prompts_and_only_for_them():
    decoding, newcomer = Seq(0, num_tokens=9, num_computed_tokens=8), Seq(1, num_tokens=12)
    policy = make_schedule_policy("prefill_first")
    with_a_prompt = View(running=[decoding], waiting=[newcomer], tables={0: "abc"})
    assert policy(with_a_prompt) == Schedule(grants=(Grant(1, 12),))
    without = View(running=[decoding], tables={0: "abc"})
    assert policy(without) == Schedule(grants=(Grant(0, 1),))
