"""The cheapest mix: against brute force, under limits, and errors that name the nearest plan."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.plan.fleet import FleetJob, GpuType, SizeBucket, fleet_reasons, highest_share, mix_text, plan_fleet


def bucket(rate: float) -> SizeBucket:
    return SizeBucket(prompt_tokens=100, answer_tokens=10, rate_per_s=rate)


def gpu(name: str, price: float, *rates: float, available: int | None = None) -> GpuType:
    return GpuType(name=name, price_per_hour=price, rates_per_s=rates, available=available)


def brute_force(job: FleetJob) -> float:
    """The least price over every assignment of whole buckets to types (one slice each)."""
    best = float("inf")
    for chosen in itertools.product(range(len(job.types)), repeat=len(job.buckets)):
        loads = [0.0] * len(job.types)
        for number, one in enumerate(chosen):
            rate = job.types[one].rates_per_s[number]
            loads[one] += job.buckets[number].rate_per_s / rate if rate else float("inf")
        if all(load < 1e6 for load in loads):
            # A load that rounding put just above a whole number takes no further device.
            price = sum(math.ceil(load - 1e-9) * one.price_per_hour for load, one in zip(loads, job.types, strict=True))
            best = min(best, price)
    return best


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([0.3, 1.1, 2.7]), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.0, 0.7, 1.3, 4.1]), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.9, 2.3]), min_size=3, max_size=3),
)
def test_no_assignment_is_cheaper(rates, small, large):
    job = FleetJob(
        buckets=tuple(map(bucket, rates)), types=(gpu("small", 1.0, *small), gpu("large", 1.7, *large)), slices=1
    )
    plan = plan_fleet(job)
    assert plan.proven
    assert plan.price_per_hour == pytest.approx(brute_force(job))
    assert all(load <= count + 1e-6 for load, count in zip(plan.loads(), plan.counts, strict=True))
    assert [sum(column) for column in zip(*plan.weights, strict=True)] == pytest.approx([1, 1, 1])
    assert plan.saved is None or plan.saved >= -1e-9


def test_a_mix_beats_each_type_alone():
    plan = plan_fleet(FleetJob(buckets=(bucket(1), bucket(1)), types=(gpu("a", 1, 1, 0.1), gpu("b", 3, 1, 1))))
    assert mix_text(plan.job.types, plan.counts) == "1 × a + 1 × b"
    assert plan.single_prices == (11, 6)
    assert plan.best_single == ("b", 6)
    assert plan.saved == pytest.approx(1 / 3)
    assert "saves 33.3 %" in fleet_reasons(plan)[0]


def test_limits_bind_and_are_told():
    types = (gpu("a", 1, 1, available=1), gpu("b", 3, 1))
    plan = plan_fleet(FleetJob(buckets=(bucket(2),), types=types))
    assert plan.counts == (1, 1)
    assert "Availability binds: all 1 of a are taken." in fleet_reasons(plan)


def test_a_shortage_names_the_rate_that_is_served_and_what_is_missing():
    job = FleetJob(buckets=(bucket(4),), types=(gpu("a", 1, 1, available=3),))
    assert highest_share(job) == pytest.approx(0.75)
    with pytest.raises(ResourceError, match=r"at most 3 of 4 requests/s") as caught:
        plan_fleet(job)
    assert "4 × a ($4.00/h" in caught.value.remedy


def test_a_size_that_nobody_serves_is_named():
    with pytest.raises(ParamsError, match=r"100\+10 tokens miss the objective on every type \(a\)"):
        plan_fleet(FleetJob(buckets=(bucket(1),), types=(gpu("a", 1, 0),)))


def test_types_that_cannot_do_it_alone_have_no_price():
    plan = plan_fleet(FleetJob(buckets=(bucket(1), bucket(1)), types=(gpu("a", 1, 1, 0), gpu("b", 3, 0, 1))))
    assert plan.single_prices == (None, None)
    assert plan.saved is None
    assert fleet_reasons(plan)[0] == "a alone cannot: 100+10 tokens miss the objective there."


@pytest.mark.parametrize(
    "make",
    [
        lambda: SizeBucket(prompt_tokens=0, answer_tokens=1, rate_per_s=1),
        lambda: bucket(-1),
        lambda: gpu("a", 0, 1),
        lambda: gpu("a", 1, -1),
        lambda: gpu("a", 1, 1, available=-1),
        lambda: FleetJob(buckets=(bucket(1),), types=()),
        lambda: FleetJob(buckets=(bucket(0),), types=(gpu("a", 1, 1),)),
        lambda: FleetJob(buckets=(bucket(1),), types=(gpu("a", 1, 1, 2),)),
        lambda: FleetJob(buckets=(bucket(1),), types=(gpu("a", 1, 1),), slices=0),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ParamsError):
        make()
