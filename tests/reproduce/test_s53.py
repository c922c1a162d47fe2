"""S53: phases apart serve more than vLLM's kernels did, under tighter objectives; with equal kernels it depends."""

from dataclasses import replace

from steelyard.reproduce import s53
from steelyard.sim.result import Slo

LONG = next(case for case in s53.CASES if case.lengths == "longbench")
QUICK = replace(LONG, slo=Slo(ttft_s=3.0, tpot_s=0.15))  # shorter simulations


def test_long_prompts_are_better_off_apart():
    asked = s53.question(QUICK, 40, 0)
    machine = s53.placement(QUICK)
    apart = asked.apart(machine, 4.0) / machine.price
    then = s53.together(asked, s53.profiled_instance(LONG.model, "vllm", 4))
    assert apart > 1.3 * then > 0
    assert asked.workload.tightest(asked.records_apart(machine, then * machine.price)) < 1.0


def test_a_placement_fills_the_machine():
    for case in s53.CASES:
        assert s53.placement(case).price == 8


def test_rows_say_what_was_compared():
    rows = list(s53.case_rows(QUICK, 20, 0))
    assert [row.claim for row in rows] == ["up to 4.48×", "–", "up to 10.2× tighter"]
    assert "vLLM's kernels of then" in rows[0].setup
    assert "equal kernels" in rows[1].setup
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)
