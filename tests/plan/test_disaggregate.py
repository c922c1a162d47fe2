"""Goodput of instances and of pools on costs made up for it, and where the phases then go."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.plan.disaggregate import Question, Workload, place_in_machine, within
from steelyard.plan.phases import Instance, Limits, Link
from steelyard.plan.place import Kind, kinds, place
from steelyard.sim.result import RequestRecord, Slo


def _fixed(_: Random) -> tuple[int, int]:
    return 100, 11


def instance(prompt_ms: float = 100.0, decode_ms: float = 20.0, *, devices: int = 1, stages: int = 1) -> Instance:
    """Return an instance whose steps of prompts and of decodes take this long, whatever is in them."""
    decode = Polynomial(decode_ms, 0.0, 0.0)
    steps = FittedSteps(prefill=Polynomial(prompt_ms, 0.0, 0.0), decode_small=decode, decode_large=decode, threshold=99)
    name = f"{prompt_ms:g}/{decode_ms:g}x{devices}p{stages}"
    return Instance(name=name, steps=steps, num_kv_tokens=40_000, stages=stages, num_devices=devices, price=devices)


def question(slo: Slo, *, link: Link | None = None, count: int = 80) -> Question:
    workload = Workload(lengths=_fixed, slo=slo, count=count, duration_s=5.0)
    limits = Limits(max_model_len=256, max_num_batched_tokens=100, max_num_seqs=4)  # a prompt fills a step
    return Question(workload=workload, limits=limits, link=link or Link(seconds_per_token=0.0))


def rated(asked: Question, *phases: Sequence[Instance]) -> list[list[Kind[Instance]]]:
    """Return the kinds for prompts and for decodes."""
    pairs = zip(phases, (asked.prefill, asked.decode), strict=True)
    return [kinds(instances, lambda one: one.price, goodput) for instances, goodput in pairs]


EASY = Slo(ttft_s=1.0, tpot_s=0.1)


def test_a_workload_comes_at_its_rate_and_long_enough():
    workload = Workload(lengths=_fixed, slo=EASY, count=50, duration_s=20.0, seed=3)
    assert len(workload.trace(1.0).requests) == 50
    busy = workload.trace(40.0)
    assert len(busy.requests) == 800
    assert busy.span_s == pytest.approx(20.0, rel=0.2)
    assert workload.trace(40.0) == busy
    patient = Workload(lengths=_fixed, slo=Slo(ttft_s=9.0, tpot_s=0.1), count=50)
    assert len(patient.trace(2.0).requests) == 180
    slow = Workload(lengths=_fixed, slo=Slo(ttft_s=1.0, tpot_s=1.0), count=50)
    assert len(slow.trace(2.0).requests) == 2 * 4 * 11


def test_enough_requests_must_be_within_the_objective():
    workload = Workload(lengths=_fixed, slo=EASY)
    good = [RequestRecord(n, 0.0, 9, 1, first_token_s=0.5, end_s=0.5, num_tokens=1, outcome="done") for n in range(9)]
    lost = RequestRecord(9, 0.0, 9, 1, outcome="EngineBusyError")
    assert workload.is_met([*good, lost])
    assert not workload.is_met([*good[:8], lost, lost])
    assert not workload.is_met([*good, lost], Slo(ttft_s=0.4, tpot_s=0.1))


def test_prompts_are_served_up_to_what_a_queue_allows():
    served = question(EASY).prefill(instance())  # ten prompts a second at most, waiting for a second of them
    assert 5.0 < served <= 12.5  # a short trace ends before its queue has grown
    assert question(Slo(ttft_s=0.15, tpot_s=0.1)).prefill(instance()) < served


def test_an_objective_below_a_single_step_is_never_met():
    assert question(Slo(ttft_s=0.09, tpot_s=0.1)).prefill(instance()) == 0.0
    assert question(Slo(ttft_s=1.0, tpot_s=0.019)).decode(instance()) == 0.0
    assert question(Slo(ttft_s=0.09, tpot_s=0.1)).together(instance()) == 0.0


def test_a_slow_link_counts_as_time_between_tokens():
    slo = Slo(ttft_s=1.0, tpot_s=0.025)  # eleven tokens: ten steps of 20 ms leave some 5 ms each
    assert question(slo).decode(instance()) > 0
    assert question(slo, link=Link(seconds_per_token=0.0, latency_s=0.2)).decode(instance()) == 0.0


def test_apart_no_prompt_stands_in_a_decode_s_way():
    slo = Slo(ttft_s=0.5, tpot_s=0.03)
    asked = question(slo)
    together = asked.together(instance())
    placed = place(4.0, *rated(asked, [instance()], [instance()]))
    assert together < 2.0
    assert asked.apart(placed) / placed.price > together


def test_several_instances_serve_at_least_as_much_each():
    asked = question(EASY)
    assert asked.together(instance(), count=2) >= 2 * asked.together(instance()) * 0.95


def test_both_pools_together_serve_about_what_the_slower_one_does():
    asked = question(EASY)
    placed = place(12.0, *rated(asked, [instance()], [instance()]))
    assert placed.prefill.count >= 2
    assert asked.apart(placed) == pytest.approx(placed.goodput_per_s, rel=0.35)


def test_anywhere_each_phase_takes_its_own_best_degree():
    quick, small = instance(40.0, 20.0, devices=2), instance(100.0, 20.0)
    found = place(3.0, *rated(question(Slo(ttft_s=0.2, tpot_s=0.1)), [quick, small], [quick, small]))
    assert found.prefill.kind.what == quick  # 100 ms of work waits too long for 200 ms
    assert found.decode.kind.what == small  # decodes gain nothing from a second device


def test_a_machine_is_divided_among_the_phases():
    found = place_in_machine(4, *rated(question(EASY), [instance()], [instance(devices=2)]))
    assert (found.prefill.count, found.decode.count) == (2, 1)
    assert found.price <= 4


def test_stages_are_paired_over_machines_of_their_own():
    first, second = instance(devices=4, stages=2), instance(devices=6, stages=2)  # 2 and 3 devices a stage
    found = place_in_machine(5, *rated(question(EASY), [first], [second]))
    assert (found.prefill.count, found.decode.count) == (1, 1)
    with pytest.raises(InputError, match="machine of 4 devices; the smallest pair that meets both takes 10"):
        place_in_machine(4, *rated(question(EASY), [first], [second]))
    with pytest.raises(InputError, match="machine of 5 devices"):
        place_in_machine(5, *rated(question(EASY), [first], [instance(devices=6, stages=3)]))


def test_times_of_phases_at_a_rate():
    asked = question(EASY, link=Link(seconds_per_token=0.0, latency_s=0.1))
    assert asked.prefill_ttft_s(instance(), 0.01) == pytest.approx([0.1] * 80)
    assert asked.decode_tpot_s(instance(), 0.01) == pytest.approx([0.02 + 0.1 / 10] * 80)


def test_lengths_are_cut_to_what_an_engine_takes():
    draw = within(lambda _: (900, 700), Limits(max_model_len=1000))
    assert draw(Random(0)) == (900, 100)
    assert within(lambda _: (9000, 700), Limits(max_model_len=1000))(Random(0)) == (900, 100)


def test_objectives_shrink_to_what_is_served():
    workload = Workload(lengths=_fixed, slo=EASY)
    good = [RequestRecord(n, 0.0, 9, 3, first_token_s=0.5, end_s=0.54, num_tokens=3, outcome="done") for n in range(9)]
    lost = RequestRecord(9, 0.0, 9, 3, outcome="EngineBusyError")
    assert workload.tightest([*good, lost]) == pytest.approx(0.5)
    assert workload.tightest([*good, lost, lost]) == float("inf")


@pytest.mark.parametrize(("slo", "missing"), [(Slo(tpot_s=0.1), "ttft_s"), (Slo(ttft_s=1.0), "tpot_s")])
def test_both_bounds_must_be_there(slo, missing):
    with pytest.raises(ParamsError, match=missing):
        Workload(lengths=_fixed, slo=slo)


def test_the_same_question_has_the_same_answer():
    answers = {question(EASY).together(instance()) for _ in range(2)}
    assert len(answers) == 1
