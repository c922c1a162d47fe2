"""What every registered scheduling policy must do, whatever its order: random workloads through a small engine."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_fake_engine import FakeEngine, FakeView, Job, shuffled

from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.policies.schedule import SCHEDULE_POLICIES, make_schedule_policy
from steelyard.policies.schedule.types import Schedule, ScheduleLimits, SchedulePolicy

STARVATION_S = 5.0
VARIANTS = {
    "fcfs": [{}],
    "prefill_first": [{}],
    "priority": [{"starvation_s": STARVATION_S}, {"starvation_s": STARVATION_S, "preempt_for_seats": True}],
    "shortest_first": [{"starvation_s": STARVATION_S}],
    "static": [{}],
    "vtc": [{}, {"input_weight": 3.0, "output_weight": 0.5, "shares": {"a": 2.0}}],
}
# Their order is by arrival, at least of those who starve; vtc's promise is a bound on service (test_vtc.py).
BY_ARRIVAL = VARIANTS.keys() - {"vtc", "prefill_first"}
# Every step goes on with somebody who runs, decodes first; prefill_first is the way it was before (its own tests).
DECODES_FIRST = VARIANTS.keys() - {"prefill_first"}
CASES = [(name, options) for name, variants in VARIANTS.items() for options in variants]


def test_every_registered_policy_is_under_test():
    assert VARIANTS.keys() == SCHEDULE_POLICIES.keys()


@st.composite
def workloads(draw: st.DrawFn) -> dict:
    """Jobs, limits and a pool in which each job alone just fits or more; prompts often share a beginning."""
    block_size = draw(st.integers(1, 4))
    num_jobs = draw(st.integers(1, 10))
    arrivals = sorted(draw(st.lists(st.integers(0, 25), min_size=num_jobs, max_size=num_jobs)))
    jobs = []
    for arrival in arrivals:
        shared = (1,) * draw(st.integers(0, 8))
        own = tuple(draw(st.lists(st.integers(0, 2), min_size=1, max_size=10)))
        salt = draw(st.sampled_from(["", "", "tenant"]))
        tenant = draw(st.sampled_from(["", "a", "b"]))
        jobs.append(Job(arrival, shared + own, draw(st.integers(1, 12)), draw(st.integers(-1, 1)), salt, tenant))
    largest = max(ceil_div(job.num_tokens, block_size) for job in jobs)
    return {
        "jobs": jobs,
        "limits": ScheduleLimits(
            max_num_seqs=draw(st.integers(1, 6)),
            max_num_batched_tokens=draw(st.integers(1, 16)),
            block_size=block_size,
        ),
        "num_blocks": largest + draw(st.integers(0, 10)),
        "caching": draw(st.booleans()),
        "step_s": draw(st.sampled_from([0.0, 0.3, 2.0])),
    }


@pytest.mark.parametrize(("name", "options"), CASES)
@given(workload=workloads())
@settings(max_examples=120, deadline=None)
def test_random_workloads(name, options, workload):
    policy = make_schedule_policy(name, **options)

    def check(view: FakeView, schedule: Schedule) -> None:
        check_pure(policy, view, schedule)
        check_well_formed(view, schedule)
        check_limits(view, schedule)
        if name in DECODES_FIRST:
            check_decodes_come_before_chunks(view, schedule)
        if name in BY_ARRIVAL:
            check_starving_go_first(view, schedule, options.get("starvation_s", 0.0))
        if not options.get("preempt_for_seats"):
            check_preempts_only_what_is_needed(view, schedule)
        if name in DECODES_FIRST and not options.get("preempt_for_seats"):
            assert not view.running or any(grant.sequence_id in ids(view.running) for grant in schedule.grants)

    engine = FakeEngine(policy=policy, check=check, **workload)
    num_known = sum(len(job.prompt) + job.num_output for job in engine.jobs)
    totals = engine.run(max_steps=engine.jobs[-1].arrival_step + 4 * num_known + 20)
    assert sorted(totals.finished) == list(range(len(engine.jobs)))
    engine.kv.check_invariants([])
    assert engine.kv.num_free_blocks == workload["num_blocks"]
    for job, sequence in zip(engine.jobs, engine.sequences.values(), strict=True):
        assert sequence.num_tokens == len(job.prompt) + job.num_output


def ids(sequences: list[Sequence]) -> set[int]:
    return {sequence.id for sequence in sequences}


def admitted(view: FakeView, schedule: Schedule) -> list[int]:
    waiting = ids(view.waiting)
    return [grant.sequence_id for grant in schedule.grants if grant.sequence_id in waiting]


def blocks_used(view: FakeView, schedule: Schedule) -> int:
    """Blocks that the grants to running sequences take."""
    running = {sequence.id: sequence for sequence in view.running}
    used = 0
    for grant in schedule.grants:
        if grant.sequence_id in running:
            end = running[grant.sequence_id].num_computed_tokens + grant.num_tokens
            used += max(0, ceil_div(end, view.limits.block_size) - view.num_held_blocks(grant.sequence_id))
    return used


def check_pure(policy: SchedulePolicy, view: FakeView, schedule: Schedule) -> None:
    def state() -> tuple:
        fields = [
            [tuple(getattr(sequence, slot) for slot in Sequence.__slots__ if slot != "tokens") for sequence in group]
            for group in (view.running, view.waiting)
        ]
        return fields, view.kv.usage(), view.kv._pool.idle_blocks()

    before = state()
    assert policy(view) == schedule, "the same view, another decision"
    assert state() == before, "deciding changed something"
    for order in (lambda group: group[::-1], lambda group: sorted(group, key=lambda s: (s.id * 7) % 5)):
        assert policy(shuffled(view, order)) == schedule, "the decision depends on how the view lists sequences"


def check_well_formed(view: FakeView, schedule: Schedule) -> None:
    granted = [grant.sequence_id for grant in schedule.grants]
    assert len(set(granted)) == len(granted), "granted twice"
    assert len(set(schedule.preempt)) == len(schedule.preempt), "preempted twice"
    assert set(schedule.preempt) <= ids(view.running), "preempted what does not run"
    assert set(granted) <= ids(view.running) | ids(view.waiting), "granted to a stranger"
    assert not set(granted) & set(schedule.preempt), "preempted and granted"
    for grant in schedule.grants:
        assert grant.num_tokens >= 1
    for sequence in view.running:
        for grant in schedule.grants:
            assert grant.sequence_id != sequence.id or grant.num_tokens <= sequence.num_new_tokens


def check_limits(view: FakeView, schedule: Schedule) -> None:
    assert sum(grant.num_tokens for grant in schedule.grants) <= view.limits.max_num_batched_tokens
    newcomers = admitted(view, schedule)
    assert len(view.running) - len(schedule.preempt) + len(newcomers) <= view.limits.max_num_seqs
    assert not (newcomers and schedule.preempt), "admitted and preempted in one step"


def check_decodes_come_before_chunks(view: FakeView, schedule: Schedule) -> None:
    tokens = {grant.sequence_id: grant.num_tokens for grant in schedule.grants}
    prefills = [s for s in view.running if s.num_new_tokens > 1 and s.id in tokens]
    for sequence in view.running:
        has_room = view.num_held_blocks(sequence.id) * view.limits.block_size > sequence.num_computed_tokens
        idle = sequence.id not in tokens and sequence.id not in schedule.preempt
        if sequence.num_new_tokens == 1 and has_room and idle:
            assert sum(tokens.values()) == view.limits.max_num_batched_tokens
            assert len(prefills) <= 1, "a chunk took a decode's token"
            assert all(tokens[s.id] == 1 for s in prefills), "a chunk took a decode's token"


def check_starving_go_first(view: FakeView, schedule: Schedule, starvation_s: float) -> None:
    newcomers = admitted(view, schedule)
    starving = sorted(
        (s for s in view.waiting if s.arrival_s < view.now_s - starvation_s), key=lambda s: (s.arrival_s, s.id)
    )
    count = min(len(newcomers), len(starving))
    assert newcomers[:count] == [s.id for s in starving[:count]], "somebody passed one who starved"


def check_preempts_only_what_is_needed(view: FakeView, schedule: Schedule) -> None:
    if schedule.preempt:
        released_by_fewer = view.num_releasable_blocks(*schedule.preempt[:-1])
        assert blocks_used(view, schedule) > view.num_free_blocks + released_by_fewer, "a preemption too many"
    used = blocks_used(view, schedule)
    assert used <= view.num_free_blocks + view.num_releasable_blocks(*schedule.preempt), "more blocks than there are"
