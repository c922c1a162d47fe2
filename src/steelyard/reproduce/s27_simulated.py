"""S27 while requests are served: an autoscaler that follows demand, beside ones that forecast it, on the same trace.

The load of the containers that were measured together, their sum, is the rate at which requests come; ten minutes of
it are half a minute here, so that half a day is simulated in 36 minutes. A replica is OPT-13B on one A100 by published
step times, with as many seats as it is to have requests; what finds no seat waits. The autoscaler looks at the demand
every ten seconds. Forecasters saw demands of the weeks before: not simulated, but drawn around what the load makes of
it, as requests come. The paper's own cloud and its hours cannot be had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from steelyard.engine.config import EngineConfig
from steelyard.plan.forecast.foresight import train_foresight
from steelyard.plan.forecast.series import TARGET, Floats, RawSeries
from steelyard.plan.forecast.types import Task
from steelyard.plan.phase_instances import profiled_instance
from steelyard.policies.scale.types import DemandForecaster
from steelyard.reproduce.report import ReproductionRow
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import Autoscale
from steelyard.sim.result import Slo, Summary
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest

STEP_S, LOOK_S, COLD_START_S = 30.0, 10.0, 60.0
_LOOKS = round(STEP_S / LOOK_S)
DAY = 144
HALF_A_DAY, QUICK_STEPS = 72, 6
SEATS = 4
USUAL_REPLICAS = 4.0
TRAIN_SHARE = 0.8
PROMPT_TOKENS, OUTPUT_TOKENS = 256, 64
SLO = Slo(ttft_s=1.0)
_GROUP = "replica"
_MOST = 32
_REACTIVE = "following demand, 80 % busy"


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """What is served: demand in replicas before the simulation and during it, and how long an answer takes.

    Attributes:
        past: demands per step of the containers.
        coming: likewise.
        answer_s: with all seats taken.
        first_s: of the past, seconds from the beginning of a Monday; in the containers' time.
        step_s: likewise.
    """

    past: Floats
    coming: Floats
    answer_s: float
    first_s: float
    step_s: float

    def trace(self, seed: int) -> Trace:
        """Return requests that come by a Poisson process, its rate constant over a step."""
        rng = Random(f"{seed}/S27")
        requests = [
            TraceRequest(at_s, PROMPT_TOKENS, OUTPUT_TOKENS)
            for step, demand in enumerate(self.coming.tolist())
            for at_s in _arrivals(step * STEP_S, demand * SEATS / self.answer_s, rng)
        ]
        return Trace(name="containers", requests=tuple(requests))

    def seen(self, seed: int) -> RawSeries:
        """Return the past as an autoscaler would have seen it: requests at one moment, over the seats of a replica."""
        counts = np.random.default_rng(seed).poisson(np.repeat(self.past, _LOOKS) * SEATS)
        values = counts[:, None] / SEATS
        return RawSeries(
            name="demand", indicators=(TARGET,), step_s=self.step_s / _LOOKS, first_s=self.first_s, values=values
        )


def simulated_rows(raw: Sequence[RawSeries], seed: int, num_steps: int = HALF_A_DAY) -> Iterator[ReproductionRow]:
    """Yield what each way to scale takes and how many requests keep to the objective, by simulating ``num_steps``."""
    service = service_of(raw, num_steps)
    trace, found = service.trace(seed), {}
    for name, (policy, forecaster) in ways(service, seed).items():
        found[name] = scaled(service, trace, policy, forecaster, seed)
        one, before = found[name], found[_REACTIVE]
        yield ReproductionRow(
            claim="–",
            setup=f"simulated, {name}",
            ours=f"{one.replica_hours:.2f} replica hours, {one.slo_share or 0:.1%} of {one.num_requests:,} requests "
            f"within {SLO.ttft_s:g} s to the first token; {one.events.get('added', 0)} replicas added",
            ratio=before.replica_hours / one.replica_hours,
        )


def service_of(raw: Sequence[RawSeries], num_steps: int) -> Service:
    """Return the containers' load together as demand, so that training keeps the usual number of replicas busy."""
    aligned = [
        one.values[:, 0] for one in raw if (one.first_s, len(one.values)) == (raw[0].first_s, len(raw[0].values))
    ]
    load = np.sum(aligned, axis=0)
    num_train = int(TRAIN_SHARE * len(load))
    demand = load * (USUAL_REPLICAS / load[:num_train].mean())
    coming = demand[num_train : num_train + num_steps]
    return Service(demand[:num_train], coming, answer_s(), raw[0].first_s, raw[0].step_s)


def answer_s() -> float:
    """Return what an answer takes on a replica whose seats are all taken."""
    full = tuple(TraceRequest(0.0, PROMPT_TOKENS, OUTPUT_TOKENS) for _ in range(SEATS))
    mean = simulate(Cluster(groups=(_group(1),)), Trace(name="full", requests=full)).summary().e2e_s.mean
    assert mean is not None, "all are answered"
    return mean


def ways(service: Service, seed: int) -> dict[str, tuple[str, DemandForecaster | None]]:
    """Return the ways to scale: policy, and who forecasts."""
    task = Task(horizon=round((STEP_S + COLD_START_S) / LOOK_S), seed=seed)
    seen = service.seen(seed)
    trained = {name: train_foresight(name, seen, task, DAY * _LOOKS) for name in ("naive", "harmony")}
    return {
        _REACTIVE: ("reactive", None),
        "expected cost, last value": ("expected_cost", trained["naive"]),
        "expected cost, HARMONY, load alone": ("expected_cost", trained["harmony"]),
    }


def scaled(service: Service, trace: Trace, policy: str, forecaster: DemandForecaster | None, seed: int) -> Summary:
    """Return what becomes of the requests, and what the replicas take."""
    autoscale = Autoscale(
        group=_GROUP,
        target_ongoing_requests=SEATS,
        policy=policy,
        options={"max_replicas": _MOST},
        every_s=STEP_S,
        look_every_s=LOOK_S,
        cold_start_s=COLD_START_S,
    )
    cluster = Cluster(groups=(_group(max(1, round(float(service.coming[0])))),), autoscalers=(autoscale,))
    forecasters = {} if forecaster is None else {_GROUP: forecaster}
    return simulate(cluster, trace, SimulationOptions(seed=seed, slo=SLO, forecasters=forecasters)).summary()


def _group(count: int) -> ReplicaGroup:
    instance = profiled_instance("opt-13b", "distserve", 1)
    engine = EngineConfig(
        max_model_len=PROMPT_TOKENS + OUTPUT_TOKENS,
        num_kv_blocks=instance.num_kv_tokens // 16,
        block_size=16,
        max_num_seqs=SEATS,
        max_waiting=1 << 20,
        enable_prefix_caching=False,
    )
    return ReplicaGroup(name=_GROUP, count=count, steps=instance.steps, engine=engine)


def _arrivals(start_s: float, rate_per_s: float, rng: Random) -> Iterator[float]:
    """Yield the moments of one step at which requests come."""
    at_s = 0.0
    while rate_per_s > 0 and (at_s := at_s + rng.expovariate(rate_per_s)) < STEP_S:
        yield start_s + at_s
