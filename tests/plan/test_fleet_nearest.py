"""Fleets that cannot be: what stands in the way, and that the nearest plan named does."""

from __future__ import annotations

import re

import pytest

from steelyard.core.errors import InputError, ParamsError, ResourceError
from steelyard.plan.fleet import FleetJob, GpuType, SizeBucket, can_serve, plan_fleet, unserved
from steelyard.plan.fleet_nearest import missing_devices, plan_within, titles

SIZES = (100, 400)
BUCKETS = tuple(SizeBucket(prompt_tokens=size, answer_tokens=10, rate_per_s=2) for size in SIZES)


def job_within(objective_s: float, *available: int | None, slow_s: float = 1e-3, room: int = 1000) -> FleetJob:
    """Two types: a token takes ``slow_s`` per prompt token on one, half on the other; looser serves more."""
    types = []
    for number, most in enumerate(available):
        least = [size * slow_s / (number + 1) for size in SIZES]
        rates = tuple(
            objective_s / one if objective_s >= one and size <= room else 0.0
            for one, size in zip(least, SIZES, strict=True)
        )
        types.append(GpuType(name="ab"[number], price_per_hour=1.0 + 2 * number, rates_per_s=rates, available=most))
    return FleetJob(buckets=BUCKETS, types=tuple(types))


def allowed_s(error: Exception) -> float:
    found = re.search(r"llow ([0-9.]+) ms", str(error))
    assert found is not None
    return float(found.group(1)) / 1000


def test_what_can_be_planned_is_planned():
    assert plan_within(lambda s: job_within(s, None, None), 1.0) == plan_fleet(job_within(1.0, None, None))


def test_the_nearest_objective_is_the_least_that_all_sizes_keep():
    with pytest.raises(ParamsError, match=r"requests of 400\+10 tokens miss the objective on every type") as refused:
        plan_within(lambda s: job_within(s, None, None), 0.1)
    nearest_s = allowed_s(refused.value)
    assert 0.2 <= nearest_s <= 0.2 * 1.012
    assert unserved(job_within(0.1, None, None)) == BUCKETS[1:]
    assert plan_within(lambda s: job_within(s, None, None), nearest_s).price_per_hour > 0


def test_too_few_devices_name_both_ways_out():
    with pytest.raises(ResourceError, match=r"serves at most 3.2 of 4 requests/s") as refused:
        plan_within(lambda s: job_within(s, 2), 0.4)
    assert "Add 1 × a; or allow" in str(refused.value)
    nearest_s = allowed_s(refused.value)
    assert 0.5 <= nearest_s <= 0.5 * 1.012
    assert can_serve(job_within(nearest_s, 2))


def test_added_devices_leave_those_that_are_there_in_use():
    job = job_within(0.4, 1, 0)
    missing = missing_devices(job)
    assert [one.available for one in missing] == [2, 0]
    more = tuple(
        one.limited((one.available or 0) + (new.available or 0)) for one, new in zip(job.types, missing, strict=True)
    )
    assert can_serve(FleetJob(buckets=job.buckets, types=more))


def test_requests_that_fit_nowhere_are_blamed_on_the_memory():
    with pytest.raises(InputError, match=r"memory: requests of 400\+10 tokens fit beside the weights in no type's"):
        plan_within(lambda s: job_within(s, None, None, room=200), 1.0)


def test_many_sizes_are_told_by_their_largest():
    assert titles(BUCKETS) == "400+10 tokens and 1 other sizes"
    assert titles(BUCKETS[:1]) == "100+10 tokens"
