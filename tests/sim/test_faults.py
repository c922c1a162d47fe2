"""Faults while a trace is simulated: nothing is lost or answered twice, and the same seed gives the same bits."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import Death, Fault, LinkLoss, Slowness, Strike
from steelyard.sim.result import EventKind, SimulationResult
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest

STEPS = FittedSteps(
    prefill=Polynomial(5.0, 0.02, 0.0),
    decode_small=Polynomial(10.0, 0.0, 0.1),
    decode_large=Polynomial(10.0, 0.0, 0.1),
    threshold=100,
)
ENGINE = EngineConfig(max_model_len=1024, num_kv_blocks=256, max_waiting=1000)


def cluster_of(*faults: Fault, count: int = 3) -> Cluster:
    group = ReplicaGroup(
        name="a", count=count, steps=STEPS, engine=ENGINE, idle_watts=100.0, dollars_per_hour=3600.0, num_devices=1
    )
    return Cluster(groups=(group,), faults=faults)


def trace_of(num_requests: int = 40, gap_s: float = 0.05, num_output_tokens: int = 50) -> Trace:
    requests = tuple(
        TraceRequest(arrival_s=number * gap_s, num_prompt_tokens=30 + number, num_output_tokens=num_output_tokens)
        for number in range(num_requests)
    )
    return Trace(name="even", requests=requests)


def all_is_answered_once(result: SimulationResult) -> None:
    assert [one.outcome for one in result.requests] == ["done"] * len(result.requests)
    assert [one.num_tokens for one in result.requests] == [one.num_output_tokens for one in result.requests]


def kinds(result: SimulationResult) -> list[tuple[float, str, EventKind]]:
    return [(event.at_s, event.machine, event.kind) for event in result.events]


def test_a_dead_machine_s_requests_go_on_elsewhere_and_a_fresh_one_takes_its_place() -> None:
    result = simulate(cluster_of(Death(strike=Strike(machine="a-1", at_s=0.5), repair_s=0.25)), trace_of())
    all_is_answered_once(result)
    assert kinds(result) == [(0.5, "a-1", EventKind.DIED), (0.75, "a-1.2", EventKind.REPAIRED)]
    lives = {machine.name: (machine.start_s, machine.end_s) for machine in result.machines}
    assert lives["a-1"] == (0.0, 0.5)
    assert lives["a-1.2"][0] == 0.75
    summary = result.summary()
    assert summary.num_continuations > 0
    assert summary.events == {"died": 1, "repaired": 1}
    # What it costs and draws ends with its life.
    dead = next(machine for machine in result.machines if machine.name == "a-1")
    assert dead.dollars == pytest.approx(0.5)
    assert dead.idle_joules == pytest.approx((0.5 - dead.busy_s) * 100.0)
    assert summary.replica_hours == pytest.approx(sum(m.end_s - m.start_s for m in result.machines) / 3600.0)


def test_without_repair_the_others_carry_it_all() -> None:
    result = simulate(cluster_of(Death(strike=Strike(machine="a-0", at_s=0.2))), trace_of())
    all_is_answered_once(result)
    assert max(one.end_s for one in result.machines if one.name == "a-0") == 0.2
    assert [event.kind for event in result.events] == [EventKind.DIED]


def test_when_nobody_is_left_the_requests_end_with_an_error() -> None:
    result = simulate(cluster_of(Death(strike=Strike(machine="a", at_s=1.5))), trace_of())
    outcomes = {one.outcome for one in result.requests}
    assert outcomes == {"done", "NoReplicaError"}
    assert all(one.end_s is not None for one in result.requests)
    assert result.summary().events == {"died": 3}


def test_a_group_that_dies_together_and_comes_back_answers_everything() -> None:
    result = simulate(cluster_of(Death(strike=Strike(machine="a", at_s=0.5), repair_s=30.0)), trace_of())
    all_is_answered_once(result)
    assert result.summary().events == {"died": 3, "repaired": 3}
    assert max(one.ttft_s or 0.0 for one in result.requests) > 28.0  # they waited for the repair, and it shows


def test_slow_spells_multiply_and_end() -> None:
    spells = (
        Slowness(strike=Strike(machine="a-0", at_s=0.0), for_s=100.0, factor=3.0),
        Slowness(strike=Strike(machine="a-0", at_s=0.0), for_s=0.5, factor=2.0),
    )
    one = Trace(name="one", requests=trace_of(1).requests)
    plain = simulate(cluster_of(count=1), one).requests[0]
    slow = simulate(cluster_of(spells[0], count=1), one).requests[0]
    both = simulate(cluster_of(*spells, count=1), one).requests[0]
    assert slow.e2e_s == pytest.approx(3.0 * plain.e2e_s)
    assert both.ttft_s == pytest.approx(6.0 * plain.ttft_s)
    # Twice as slow for half a second and the step that began in it.
    assert both.e2e_s == pytest.approx(slow.e2e_s + 0.25, abs=0.05)


def test_a_machine_that_was_cut_off_keeps_its_prefix_cache() -> None:
    cut = LinkLoss(strike=Strike(machine="a-0", at_s=1.0), for_s=1.0)
    first, again = (
        TraceRequest(arrival_s=at_s, num_prompt_tokens=520, num_output_tokens=5, hash_ids=(7,)) for at_s in (0.0, 3.0)
    )
    trace = Trace(name="twice", requests=(first, again))
    result = simulate(cluster_of(cut, count=1), trace)
    all_is_answered_once(result)
    died = simulate(cluster_of(Death(strike=cut.strike, repair_s=1.0), count=1), trace)
    assert result.requests[1].num_cached_tokens > 0
    assert died.requests[1].num_cached_tokens == 0


def test_answers_of_a_machine_that_is_cut_off_go_on_elsewhere() -> None:
    result = simulate(cluster_of(LinkLoss(strike=Strike(machine="a-2", at_s=0.5), for_s=0.75)), trace_of())
    all_is_answered_once(result)
    assert kinds(result) == [(0.5, "a-2", EventKind.CUT_OFF), (1.25, "a-2", EventKind.RECONNECTED)]
    assert result.num_continuations > 0
    assert len(result.machines) == 3


FAULTS = st.one_of(
    st.builds(
        lambda machine, at_s, repair_s: Death(strike=Strike(machine=machine, at_s=at_s), repair_s=repair_s),
        st.sampled_from(["a-0", "a-1", "a-2"]),
        st.sampled_from([0.0, 0.3, 0.31, 1.0]),
        st.sampled_from([0.1, 1.0]),
    ),
    st.builds(
        lambda machine, at_s, for_s: LinkLoss(strike=Strike(machine=machine, at_s=at_s), for_s=for_s),
        st.sampled_from(["a-0", "a-1", "a"]),
        st.sampled_from([0.0, 0.3, 0.8]),
        st.sampled_from([0.1, 1.0]),
    ),
    st.builds(
        lambda machine, mtbf_s, factor: Slowness(
            strike=Strike(machine=machine, mtbf_s=mtbf_s), for_s=0.2, factor=factor
        ),
        st.sampled_from(["a-0", "a"]),
        st.sampled_from([0.2, 1.0]),
        st.sampled_from([0.5, 4.0]),
    ),
    st.builds(
        lambda mtbf_s: Death(strike=Strike(machine="a", mtbf_s=mtbf_s), repair_s=0.2), st.sampled_from([1.0, 5.0])
    ),
)


@settings(max_examples=40, deadline=None)
@given(faults=st.lists(FAULTS, max_size=4), seed=st.integers(0, 1000))
def test_whatever_happens_each_request_ends_once_and_coasting_changes_nothing(faults: list[Fault], seed: int) -> None:
    cluster, trace = cluster_of(*faults), trace_of(12, 0.1, 40)
    coasting = simulate(cluster, trace, SimulationOptions(seed=seed))
    for one in coasting.requests:
        assert one.end_s is not None
        assert one.outcome in ("done", "ReplicaLostError")  # so often lost that it was given up
        assert one.num_tokens == one.num_output_tokens if one.is_done else one.num_tokens < one.num_output_tokens
    assert simulate(cluster, trace, SimulationOptions(seed=seed, coasts=False)) == coasting
    assert simulate(cluster, trace, SimulationOptions(seed=seed)) == coasting


def test_what_is_drawn_for_a_machine_does_not_depend_on_the_others() -> None:
    again_and_again = Death(strike=Strike(machine="a-0", mtbf_s=0.7), repair_s=0.1)
    some, many = (simulate(cluster_of(again_and_again, count=count), trace_of(60)) for count in (2, 4))
    deaths = [[event.at_s for event in one.events if event.kind is EventKind.DIED][:3] for one in (some, many)]
    assert deaths[0] == deaths[1]
    other = simulate(cluster_of(again_and_again, count=2), trace_of(60), SimulationOptions(seed=1))
    assert [event.at_s for event in other.events][:3] != [event.at_s for event in some.events][:3]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Strike(machine="a"), "at_s"),
        (lambda: Strike(machine="a", at_s=1.0, mtbf_s=1.0), "at_s"),
        (lambda: Strike(machine="a", at_s=-1.0), "at_s"),
        (lambda: Strike(machine="a", mtbf_s=0.0), "mtbf_s"),
        (lambda: Death(strike=Strike(machine="a", at_s=0.0), repair_s=0.0), "repair_s"),
        (lambda: Slowness(strike=Strike(machine="a", at_s=0.0), for_s=1.0, factor=0.0), "factor"),
        (lambda: LinkLoss(strike=Strike(machine="a", at_s=0.0), for_s=float("nan")), "for_s"),
    ],
)
def test_impossible_faults_are_refused(make, field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        make()
    assert caught.value.field == field


def test_a_fault_of_a_machine_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        cluster_of(Death(strike=Strike(machine="a-7", at_s=0.0)))
    assert (caught.value.field, "a-" in caught.value.remedy) == ("faults[0].machine", True)
    with pytest.raises(InputError, match="'b'"):
        replace(cluster_of(), faults=(Death(strike=Strike(machine="b", at_s=0.0)),))
