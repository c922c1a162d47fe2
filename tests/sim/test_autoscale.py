"""An autoscaler in virtual time: what it orders comes after its cold start, what it gives up finishes first."""

import pytest

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import Autoscale, Death, Strike
from steelyard.sim.result import EventKind, SimulationResult
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest

DECODES = Polynomial(20.0, 0.0, 1.0)
STEPS = FittedSteps(prefill=Polynomial(5.0, 0.02, 0.0), decode_small=DECODES, decode_large=DECODES, threshold=100)
ENGINE = EngineConfig(max_model_len=512, num_kv_blocks=512, max_waiting=1000, max_num_seqs=4)
POLICY_OPTIONS = ("utilisation", "min_replicas", "max_replicas")


def cluster_of(*, count: int = 1, **options) -> Cluster:
    group = ReplicaGroup(name="a", count=count, steps=STEPS, engine=ENGINE, idle_watts=10.0, dollars_per_hour=3600.0)
    settings = {"every_s": 10.0, "look_every_s": 2.0, "cold_start_s": 5.0, "target_ongoing_requests": 4.0}
    own = {key: value for key, value in {**settings, **options}.items() if key not in POLICY_OPTIONS}
    policy_options = {key: value for key, value in options.items() if key in POLICY_OPTIONS}
    scaler = Autoscale(group="a", options=policy_options, **own)
    return Cluster(groups=(group,), autoscalers=(scaler,))


def rush(num_requests: int = 60, every_s: float = 0.2, then_s: float = 200.0) -> Trace:
    """Requests of a second and a half each, and a last one long after."""
    requests = [TraceRequest(number * every_s, 20, 60) for number in range(num_requests)]
    return Trace(name="rush", requests=(*requests, TraceRequest(num_requests * every_s + then_s, 20, 60)))


def times(result: SimulationResult, kind: EventKind) -> list[float]:
    return [event.at_s for event in result.events if event.kind is kind]


def test_replicas_come_after_their_cold_start_and_go_when_they_are_not_needed() -> None:
    result = simulate(cluster_of(), rush())
    assert all(one.is_done for one in result.requests)
    added, retired = times(result, EventKind.ADDED), times(result, EventKind.RETIRED)
    assert added
    assert added[0] == 15.0  # the first decision, and the cold start
    assert len(retired) == len(added)
    assert min(retired) > max(added)
    # Paid from the order on, and until it left.
    first = next(machine for machine in result.machines if machine.name == "a-1")
    assert first.start_s == 10.0
    assert first.dollars == pytest.approx(first.end_s - first.start_s)
    assert first.idle_joules + first.busy_joules == pytest.approx(10.0 * (first.end_s - first.start_s - first.busy_s))


def test_more_replicas_serve_sooner_and_fewer_cost_less() -> None:
    trace = rush(num_requests=150)
    alone = simulate(cluster_of(max_replicas=1), trace).summary()
    scaled = simulate(cluster_of(), trace).summary()
    always = simulate(cluster_of(count=4, min_replicas=4, max_replicas=4), trace).summary()
    assert alone.events == always.events == {}
    assert always.ttft_s.p90 < scaled.ttft_s.p90 < alone.ttft_s.p90
    assert alone.dollars < scaled.dollars < always.dollars


def test_one_that_retires_finishes_what_it_has() -> None:
    # Two replicas with a long answer each; the second decision wants one only.
    trace = Trace(name="two", requests=(TraceRequest(0.0, 20, 400), TraceRequest(0.0, 20, 400)))
    result = simulate(cluster_of(count=2, target_ongoing_requests=100.0, every_s=2.0), trace)
    assert [one.outcome for one in result.requests] == ["done", "done"]
    assert result.num_continuations == 0
    leaving = next(machine for machine in result.machines if machine.name == "a-1")
    ends = [one.end_s for one in result.requests]
    assert leaving.end_s >= min(ends)
    assert leaving.num_decode_tokens > 0


def test_orders_are_taken_back_before_they_come() -> None:
    result = simulate(cluster_of(cold_start_s=100.0), rush(num_requests=30))
    assert times(result, EventKind.ADDED) == []
    assert [machine.name for machine in result.machines] == ["a-0"]


def test_the_same_seed_gives_the_same_bits_with_and_without_coasting() -> None:
    cluster, trace = cluster_of(), rush()
    once = simulate(cluster, trace)
    assert simulate(cluster, trace) == once
    assert simulate(cluster, trace, SimulationOptions(coasts=False)) == once


def test_a_dead_replica_is_replaced() -> None:
    faulty = Cluster(
        groups=cluster_of(count=2).groups,
        autoscalers=cluster_of(min_replicas=2).autoscalers,
        faults=(Death(strike=Strike(machine="a-0", at_s=3.0)),),
    )
    result = simulate(faulty, rush(num_requests=10))
    assert all(one.is_done for one in result.requests)
    assert times(result, EventKind.ADDED)[0] == 15.0


class Foreseen:
    """Says that four replicas will be needed, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def futures(self, demands, num_moments):
        self.told.append((len(demands), num_moments))
        return ((4.0,) * num_moments,)


def test_a_forecast_is_asked_for_until_the_next_decision_can_have_come_true() -> None:
    foreseen = Foreseen()
    cluster = cluster_of(policy="expected_cost", max_replicas=6)
    result = simulate(cluster, rush(num_requests=20), SimulationOptions(forecasters={"a": foreseen}))
    assert foreseen.told[:3] == [(5, 5 + 3), (10, 5 + 3), (15, 5 + 3)], "a period, and the cold start in whole looks"
    assert times(result, EventKind.ADDED)[:3] == [15.0, 15.0, 15.0]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"target_ongoing_requests": 0.0}, "target_ongoing_requests"),
        ({"look_every_s": 20.0}, "look_every_s"),
        ({"policy": "reactiv"}, "scale_policy"),
        ({"utilisation": 0.0}, "utilisation"),
    ],
)
def test_impossible_autoscalers_are_refused(options, field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        cluster_of(**options)
    assert caught.value.field == field


def test_an_autoscaler_of_nobody_and_two_of_one_are_refused() -> None:
    groups, (scaler,) = cluster_of().groups, cluster_of().autoscalers
    with pytest.raises(InputError) as caught:
        Cluster(groups=groups, autoscalers=(scaler, scaler))
    assert caught.value.field == "autoscale[1].group"
    with pytest.raises(InputError, match="no 'b'"):
        Cluster(groups=groups, autoscalers=(Autoscale(group="b", target_ongoing_requests=1.0),))
