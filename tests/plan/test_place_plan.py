"""Plans of pools: what binds is named, together stands beside apart, and what cannot be met says what could."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from steelyard.core.errors import InputError
from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.plan.disaggregate import Question, Workload
from steelyard.plan.phases import Instance, Limits, Link
from steelyard.plan.place_plan import Affinity, PlaceJob, place_reasons, plan_place
from steelyard.sim.result import Slo


def _fixed(_: Random) -> tuple[int, int]:
    return 100, 6


def instance(name: str, prompt_ms: float, decode_ms: float, devices: int = 1) -> Instance:
    decode = Polynomial(decode_ms, 0.0, 0.0)
    steps = FittedSteps(prefill=Polynomial(prompt_ms, 0.0, 0.0), decode_small=decode, decode_large=decode, threshold=99)
    return Instance(name=name, steps=steps, num_kv_tokens=40_000, num_devices=devices, price=devices)


SMALL, LARGE = instance("small", 100.0, 20.0), instance("large", 40.0, 20.0, 2)


def job(slo: Slo, affinity: Affinity = Affinity.HIGH) -> PlaceJob:
    limits = Limits(max_model_len=256, max_num_batched_tokens=100, max_num_seqs=4)
    workload = Workload(lengths=_fixed, slo=slo, count=40, duration_s=3.0)
    return PlaceJob(
        question=Question(workload=workload, limits=limits, link=Link(seconds_per_token=0.0)),
        instances=(SMALL, LARGE),
        affinity=affinity,
        machine_devices=8,
        rate_per_s=4.0,
    )


def test_a_tight_bound_on_the_first_token_takes_more_devices_for_prompts_only():
    plan = plan_place(job(Slo(ttft_s=0.12, tpot_s=0.03)))
    assert plan.placement.prefill.kind.what == LARGE
    assert plan.placement.decode.kind.what == SMALL
    assert plan.goodput_per_s > 0
    assert plan.gain is not None
    assert plan.beside is not None
    assert plan.gain == pytest.approx(plan.value / plan.beside.value)
    reasons = place_reasons(plan)
    assert reasons[0].startswith("Prompts on large")
    assert reasons[2].startswith("The pool for prefill is the slower one")
    assert reasons[3].startswith("TTFT binds")
    assert "× TP" not in "".join(reasons)


def test_a_low_network_keeps_to_the_machine():
    plan = plan_place(replace(job(Slo(ttft_s=0.5, tpot_s=0.1), Affinity.LOW), machine_devices=3))
    placed = plan.placement
    assert placed.prefill.count * placed.prefill.kind.what.num_devices <= 2
    assert placed.price <= 3


def test_together_is_judged_in_as_many_instances_as_the_pools_cost():
    plan = plan_place(replace(job(Slo(ttft_s=0.3, tpot_s=0.05)), rate_per_s=80.0))
    assert plan.beside is not None
    group = plan.beside.group
    assert group.count > 1
    assert group.price <= plan.placement.price < group.price + group.kind.price
    assert plan.beside.goodput_per_s > 1.1 * group.goodput_per_s, "many even out what comes"
    assert f"Together, {group.count} × {group.kind.what.name} serve" in place_reasons(plan)[-1]
    one = plan_place(replace(job(Slo(ttft_s=0.5, tpot_s=0.1), Affinity.LOW), machine_devices=2))
    assert one.beside is not None
    assert one.beside.group.count * one.beside.group.kind.price <= 2


def test_together_may_be_unable_or_better():
    apart_only = plan_place(job(Slo(ttft_s=0.12, tpot_s=0.021)))
    easy = plan_place(job(Slo(ttft_s=0.8, tpot_s=0.2)))
    assert apart_only.gain is None or apart_only.gain > 1
    assert easy.gain is not None
    said = "apart is better" if easy.gain > 1 else "keep the phases together"
    assert said in place_reasons(easy)[-1]


@pytest.mark.parametrize(
    ("slo", "told"),
    [
        (Slo(ttft_s=0.03, tpot_s=0.1), r"ttft: no instance keeps 90 % .* Allow 0\.04 s at least: large"),
        (Slo(ttft_s=1.0, tpot_s=0.01), r"tpot: no instance keeps 90 % .* Allow 0\.02 s at least: small"),
    ],
)
def test_a_bound_that_nothing_meets_is_named_with_the_nearest_that_something_does(slo, told):
    with pytest.raises(InputError, match=told):
        plan_place(job(slo))


def test_without_instances_there_is_no_plan():
    with pytest.raises(InputError, match="Allow more devices"):
        plan_place(replace(job(Slo(ttft_s=1.0, tpot_s=1.0)), instances=()))
