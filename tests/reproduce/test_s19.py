"""S19: clusters are what brute force finds, budgets are kept, and code, long prompts and short answers, goes apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.reproduce import s19

RATES = s19.Rates(
    prefill={"a100-80gb": 3.0, "h100": 6.0},
    decode={"a100-80gb": 8.0, "h100": 12.0},
    together={"a100-80gb": 1.0, "h100": 2.5},
)


def test_both_phases_on_every_machine():
    budget = s19.Budget(cost=10 * s19.H100.cost)
    assert s19.build(s19.DESIGNS["Baseline-H100"], RATES, budget) == s19.Built(10, 0, 25.0)
    assert s19.build(s19.DESIGNS["Baseline-A100"], RATES, budget) == s19.Built(21, 0, 21.0)


@given(st.sampled_from(sorted(s19.SPLITWISE)), st.floats(5, 90), st.floats(50, 900))
def test_a_budget_is_divided_as_brute_force_would(name, cost, power):
    design, budget = s19.SPLITWISE[name], s19.Budget(cost=cost, power=power)
    found = s19.build(design, RATES, budget)
    first, second = design.prefill, design.decode
    best = max(
        min(one * RATES.prefill[first.device], other * RATES.decode[second.device])
        for one in range(45)
        for other in range(45)
        if one * first.cost + other * second.cost <= cost and one * first.power + other * second.power <= power
    )
    assert found.rate_per_s == pytest.approx(best)
    assert found.prefill * first.cost + found.decode * second.cost <= cost + 1e-6
    assert found.prefill * first.power + found.decode * second.power <= power + 1e-6


def test_a_rate_takes_as_many_of_each_as_it_needs():
    assert s19.needed(s19.DESIGNS["Splitwise-HA"], RATES, 70.0) == s19.Built(12, 9, 72.0)
    assert s19.needed(s19.DESIGNS["Baseline-A100"], RATES, 70.0).prefill == 70


def test_requests_are_as_large_as_the_traces():
    sizes = s19.requests("code")
    assert len(sizes) > 1000
    assert sum(prompt for prompt, _ in sizes) / len(sizes) == pytest.approx(2047.8, rel=0.05)
    assert sum(answer for _, answer in sizes) / len(sizes) == pytest.approx(27.9, rel=0.05)


def test_long_prompts_with_short_answers_are_better_off_apart():
    asked = s19.question("code", 60, 0)
    machine = s19.instance(s19.H100)
    prefill, decode, together = asked.prefill(machine), asked.decode(machine), asked.together(machine, "fcfs")
    assert 1 / (1 / prefill + 1 / decode) > 1.3 * together > 0  # the pools in proportion
