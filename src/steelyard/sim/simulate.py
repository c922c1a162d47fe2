"""The simulator: a trace through a cluster, in virtual time.

Engines, scheduling and routing policies, KV books and the dispatcher are the ones that serve; machines are modelled.
:func:`simulate` is a function of its arguments alone, to the bit. What is asked of a request is its number of output
tokens (nothing else ends it), so a router that foresees outputs foresees them rightly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from steelyard.core.clock import now_s
from steelyard.core.errors import SteelyardError
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.cost.roofline import StepShape
from steelyard.fleet.dispatcher import DispatchConfig, Dispatcher
from steelyard.policies.route import make_route_policy
from steelyard.policies.route.types import RoutePolicy
from steelyard.policies.scale.types import DemandForecaster
from steelyard.sim.autoscale import Autoscaler
from steelyard.sim.cluster import Cluster
from steelyard.sim.faults import faults_of
from steelyard.sim.power import PowerKeeper
from steelyard.sim.prompts import prompt_tokens
from steelyard.sim.replicas import ModelledReplicas
from steelyard.sim.result import RequestRecord, SimulationResult, Slo
from steelyard.sim.traces.types import Trace, TraceRequest
from steelyard.sim.virtual import LAST_RANK, run_virtual, until

_PATIENCE_S = 600.0
_MAX_ATTEMPTS = 8

Progress = Callable[[float, int], None]
"""Told virtual seconds and requests that have ended, now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """How to simulate.

    Attributes:
        seed: of all that is drawn.
        slo: what requests are held against.
        num_samples: moments, evenly over the trace, at which every machine is looked at.
        forecasters: of the demand of groups that an autoscaler keeps, by their names.
        coasts: take runs of equal decode steps at once; the result is the same without, and comes later.
        progress: is told how far it is.
    """

    seed: int = 0
    slo: Slo | None = None
    num_samples: int = 240
    forecasters: Mapping[str, DemandForecaster] = field(default_factory=dict)
    coasts: bool = True
    progress: Progress | None = None


def simulate(cluster: Cluster, trace: Trace, options: SimulationOptions | None = None) -> SimulationResult:
    """Return what happens when a trace meets a cluster.

    Raises:
        ParamsError: if a policy or one of its options is unknown.
        InputError: if a step model does not know what it is asked.
    """
    return run_virtual(_Simulation(cluster, trace, options or SimulationOptions()).run())


class _Simulation:
    def __init__(self, cluster: Cluster, trace: Trace, options: SimulationOptions) -> None:
        self._cluster, self._trace, self._options = cluster, trace, options
        self._records = [
            RequestRecord(number, one.arrival_s, one.num_prompt_tokens, one.num_output_tokens, tenant=one.tenant)
            for number, one in enumerate(trace.requests)
        ]
        self._keeper = None if cluster.power is None else PowerKeeper(cluster.power)
        self._num_ended = 0

    async def run(self) -> SimulationResult:
        """Let every request come in its time, wait for the last one, and look at what is left."""
        replicas = ModelledReplicas(self._cluster, coasts=self._options.coasts)
        config = DispatchConfig(
            block_size=self._cluster.groups[0].engine.block_size,
            patience_s=_PATIENCE_S,
            max_attempts=_MAX_ATTEMPTS,
            seed=self._options.seed,
        )
        dispatcher = Dispatcher(replicas.routing(self._route_policy), config)
        replicas.start_all(dispatcher)
        async with asyncio.TaskGroup() as beside:
            tasks = [beside.create_task(one) for one in (self._sample(replicas), *self._conditions(replicas))]
            await self._feed(dispatcher)
            for task in tasks:
                task.cancel()
        machines, events = replicas.records(), tuple(replicas.events)
        await replicas.close()
        return SimulationResult(
            requests=tuple(self._records),
            machines=machines,
            samples=tuple(replicas.samples),
            events=events,
            num_retries=dispatcher.num_retries,
            num_continuations=dispatcher.num_continuations,
            power=None if self._keeper is None else self._keeper.record(),
            slo=self._options.slo,
            alone=tuple(map(self._alone, self._trace.requests)),
        )

    def _route_policy(self) -> RoutePolicy:
        return make_route_policy(self._cluster.route, **self._cluster.route_options)

    def _conditions(self, replicas: ModelledReplicas) -> Iterator[Coroutine[None, None, None]]:
        """Yield what goes on beside the trace; each until cancelled."""
        yield from faults_of(replicas, self._cluster.faults, self._options.seed)
        for config in self._cluster.autoscalers:
            yield Autoscaler(config, replicas, self._options.forecasters.get(config.group)).run()
        if self._keeper is not None:
            yield self._keeper.run(replicas)

    async def _feed(self, dispatcher: Dispatcher) -> None:
        async with asyncio.TaskGroup() as clients:
            for number, one in enumerate(self._trace.requests):
                await until(one.arrival_s)
                clients.create_task(self._follow(dispatcher, number, one), name=f"request {number}")

    async def _follow(self, dispatcher: Dispatcher, number: int, one: TraceRequest) -> None:
        """Be a client: read one answer to its end and note when its parts came."""
        record = self._records[number]
        try:
            async with aclosing(dispatcher.stream(self._request(number, one))) as stream:
                async for increment in stream:
                    if increment.tokens and record.first_token_s is None:
                        record.first_token_s = now_s()
                    record.num_tokens += len(increment.tokens)
                    record.num_cached_tokens = increment.num_cached_tokens
            record.outcome = "done"
        except SteelyardError as error:
            record.outcome = type(error).__name__
        record.end_s = now_s()
        self._num_ended += 1

    def _request(self, number: int, one: TraceRequest) -> Request:
        params = SamplingParams(max_tokens=one.num_output_tokens, ignore_eos=True, seed=number)
        prompt = prompt_tokens(number, one)
        return Request(id=str(number), prompt_token_ids=prompt, params=params, tenant=one.tenant)

    async def _sample(self, replicas: ModelledReplicas) -> None:
        """Look at every machine at even moments, each time after all else that happens then.

        What goes on long after the trace's end is looked at ever more seldom.
        """
        step_s = max(self._trace.span_s, 1e-3) / self._options.num_samples
        at_s, count = 0.0, 0
        while True:
            count += 1
            at_s += step_s
            if count % (2 * self._options.num_samples) == 0:
                step_s *= 2.0
            await until(at_s, rank=LAST_RANK)
            replicas.sample()
            if self._options.progress is not None:
                self._options.progress(now_s(), self._num_ended)

    def _alone(self, one: TraceRequest) -> tuple[float, float]:
        """Return TTFT and TPOT of a request on an idle replica of the first group."""
        steps, middle = self._cluster.groups[0].steps, one.num_prompt_tokens + (one.num_output_tokens + 1) // 2
        prefill = steps.estimate(StepShape.of((one.num_prompt_tokens, one.num_prompt_tokens)))
        return prefill.seconds, steps.estimate(StepShape.of((1, middle))).seconds
