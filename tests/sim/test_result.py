"""The figures that sum a simulation up, against the same figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.core.errors import ParamsError
from steelyard.sim.result import MachineRecord, RequestRecord, SimulationResult, Slo, spread


def request(number: int, first_s: float | None, end_s: float | None, num_tokens: int, outcome: str = "done"):
    return RequestRecord(
        number=number,
        arrival_s=float(number),
        num_prompt_tokens=10,
        num_output_tokens=5,
        first_token_s=first_s,
        end_s=end_s,
        num_tokens=num_tokens,
        outcome=outcome,
    )


def machine(name: str, start_s: float, end_s: float, busy_s: float, dollars: float | None) -> MachineRecord:
    return MachineRecord(
        name=name, group="a", start_s=start_s, end_s=end_s, num_steps=10, busy_s=busy_s, num_prefill_tokens=1,
        num_decode_tokens=2, num_preemptions=1, num_hit_tokens=3, num_miss_tokens=9, busy_joules=3.6e6,
        idle_joules=0.9e6, dollars=dollars,
    )  # fmt: skip


REQUESTS = (
    request(0, 0.5, 2.5, 5),
    request(1, 3.0, 7.0, 5),
    request(2, 2.25, 2.25, 1),
    request(3, None, 4.0, 0, "NoReplicaError"),
)
MACHINES = (machine("a-0", 0.0, 8.0, 4.0, 1.5), machine("a-1", 4.0, 8.0, 1.0, 0.5))


def result(slo: Slo | None = None, machines: tuple[MachineRecord, ...] = MACHINES) -> SimulationResult:
    return SimulationResult(
        requests=REQUESTS, machines=machines, samples=(), events=(), num_retries=1, num_continuations=2, power=None,
        slo=slo, alone=((0.1, 0.2), (0.3, 0.4)),
    )  # fmt: skip


def test_times_of_a_request() -> None:
    first, second, single, lost = REQUESTS
    assert (first.ttft_s, first.e2e_s, first.tpot_s) == (0.5, 2.5, 0.5)
    assert (second.ttft_s, second.e2e_s, second.tpot_s) == (2.0, 6.0, 1.0)
    assert (single.ttft_s, single.e2e_s, single.tpot_s) == (0.25, 0.25, None)
    assert (lost.ttft_s, lost.e2e_s, lost.tpot_s) == (None, None, None)


def test_a_summary_is_what_one_works_out_by_hand() -> None:
    summary = result(Slo(ttft_s=1.0, tpot_s=0.6)).summary()
    assert (summary.num_requests, summary.num_done, summary.outcomes) == (4, 3, {"NoReplicaError": 1})
    assert summary.span_s == 7.0
    assert summary.requests_per_s == pytest.approx(3 / 7)
    assert summary.output_tokens_per_s == pytest.approx(11 / 7)
    # The first and the single one are within both bounds: a bound on what does not exist binds nothing.
    assert (summary.goodput_per_s, summary.slo_share) == (pytest.approx(2 / 7), 0.5)
    assert summary.utilisation == pytest.approx(5 / 12)
    assert summary.replica_hours == pytest.approx(12 / 3600)
    assert (summary.num_steps, summary.num_preemptions, summary.hit_share) == (20, 2, 0.25)
    assert summary.kwh == pytest.approx(2.5)
    assert summary.dollars == 2.0
    assert (summary.num_retries, summary.num_continuations) == (1, 2)
    assert summary.alone_ttft_s.mean == pytest.approx(0.2)


def test_percentiles_are_numpy_s_and_unknown_times_do_not_count() -> None:
    times = [0.3, None, 0.1, 0.7, 0.2, None, 0.9]
    known = np.array([0.3, 0.1, 0.7, 0.2, 0.9])
    found = spread(times)
    assert found.mean == pytest.approx(known.mean())
    assert [found.p50, found.p90, found.p99] == pytest.approx([np.percentile(known, q) for q in (50, 90, 99)])
    assert found.max == 0.9
    assert spread([None]).p50 is None


def test_without_objective_or_prices_there_is_no_figure_of_them() -> None:
    assert (result().summary().goodput_per_s, result().summary().slo_share) == (None, None)
    assert result(machines=(MACHINES[0], machine("a-1", 0.0, 1.0, 1.0, None))).summary().dollars is None


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_must_be_positive(bound: float) -> None:
    with pytest.raises(ParamsError) as caught:
        Slo(tpot_s=bound)
    assert caught.value.field == "tpot_s"
