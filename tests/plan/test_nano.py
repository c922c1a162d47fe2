"""Nano-batches: bounds, dependencies, one operator per resource, the search against every candidate, errors."""

import itertools

import pytest

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.plan import nano
from steelyard.plan.nano import Bound, NanoJob, candidates, operators, search, sequential_s, shared_rates, timeline
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model

NEEDS = {0: (), 1: (0,), 2: (0,), 3: (1, 2), 4: (3,), 5: (4,), 6: (5,)}


def made(model="llama-3-8b", **changed):
    values = {"num_devices": 1, "batch_tokens": 512, **changed}
    return NanoJob(model=find_serving_model(model), device=find_serving_device("a100-80gb"), **values)


def check(spans, job, num_nano):
    """Every operator once, after those it needs, and never two of one resource at once."""
    ends = {(span.nano, span.layer, span.operator): span.end_s for span in spans}
    assert len(ends) == len(spans) == num_nano * job.model.num_layers * 7
    for span in spans:
        needed = [(span.nano, span.layer, one) for one in NEEDS[span.operator]]
        if span.operator == 0 and span.layer:
            needed = [(span.nano, span.layer - 1, 6)]
        assert all(ends[one] <= span.start_s + 1e-12 for one in needed)
    for bound in Bound:
        lane = sorted((span.start_s, span.end_s) for span in spans if span.bound is bound)
        assert all(first[1] <= second[0] + 1e-12 for first, second in itertools.pairwise(lane))


@pytest.mark.parametrize("pipeline", list(candidates())[::11])
def test_timelines_obey_dependencies_and_resources(pipeline):
    job = made(num_devices=2)
    check(timeline(job, pipeline), job, pipeline.num_nano)


@pytest.mark.parametrize(
    "job", [made(), made(num_devices=4, batch_tokens=2048), made(batch_tokens=1), made("llama-2-7b", answer_tokens=64)]
)
def test_never_above_the_optimum_nor_below_sequential(job):
    plan = search(job)
    assert job.optimal_s <= plan.step_s <= plan.sequential_s * (1 + 1e-12)


def test_where_nothing_overlaps_the_plan_is_one_operator_after_another(monkeypatch):
    monkeypatch.setattr(nano, "RATE_PER_SHARE", dict.fromkeys(Bound, 1.0))
    monkeypatch.setattr(nano, "candidates", lambda: [one for one in candidates() if one.num_nano == 4])
    job = made(num_devices=2, batch_tokens=64)
    plan = search(job)
    assert plan.pipeline is None
    assert plan.step_s == pytest.approx(sequential_s(job))
    check(plan.spans, job, 1)


def test_the_search_finds_the_best_candidate():
    job = made(num_devices=4)
    times = [max(span.end_s for span in timeline(job, one)) for one in candidates()]
    assert search(job).step_s == pytest.approx(min(*times, sequential_s(job)), rel=1e-12)


def test_shares_never_exceed_the_device():
    for pipeline, size in itertools.product(candidates(), (1, 2, 3)):
        for active in itertools.combinations(Bound, size):
            assert all(0 < rate <= 1 for rate in shared_rates(frozenset(active), pipeline).values())
        assert pipeline.memory_share + pipeline.network_share < 1


def test_operators_are_bound_as_the_paper_says():
    job = made("llama-2-70b", num_devices=8, batch_tokens=2048)
    bounds = {one.name: one.bound for one in operators(job, 2048)}
    assert bounds.pop("decode attention") is Bound.MEMORY
    assert bounds.pop("all-reduce 1") is bounds.pop("all-reduce 2") is Bound.NETWORK
    assert set(bounds.values()) == {Bound.COMPUTE}


def test_impossible_jobs_say_why():
    with pytest.raises(ParamsError, match="below 1"):
        made(batch_tokens=0)
    with pytest.raises(MemoryBudgetError, match="more devices"):
        made("llama-2-70b")
    with pytest.raises(MemoryBudgetError, match="at most"):
        made(batch_tokens=100_000)
