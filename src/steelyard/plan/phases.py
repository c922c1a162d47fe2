"""The phases of requests on pools of their own, simulated one after the other (S53 DistServe, S19 Splitwise).

Prompts are computed by one pool; their keys and values then cross a link to another, which computes the rest. Nothing
flows back, so the two are simulated in turn, each exactly: the requests of the second arrive when the first is done
with them and their bytes have crossed. Engines, scheduling and routing are the ones that serve.

Left out: a prompt's keys and values leave their instance's memory at once, not when they have crossed; and a decode
that is preempted comes back for the price of one token, as if its keys and values had been kept beside the device.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from steelyard.cost.estimate import StepEstimate, StepModel
from steelyard.cost.roofline import SequenceShape, StepShape
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.result import RequestRecord
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest

_PLENTY = 1 << 20
_ROUTE = "least_loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Devices that hold the model once.

    Attributes:
        name: for tables.
        steps: what a step takes, through all stages of its pipeline.
        num_kv_tokens: that its devices have room for, together.
        stages: of its pipeline. They are taken never to wait for each other: ``stages`` batches are under way at once,
            each with its part of the room, as if on an engine of its own.
        num_devices: of all stages together.
        price: of one in what is scarce.
    """

    name: str
    steps: StepModel
    num_kv_tokens: int
    stages: int = 1
    num_devices: int = 1
    price: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an engine takes on at once; the fields are those of :class:`~steelyard.engine.config.EngineConfig`."""

    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16

    def handed_over(self) -> Limits:
        """Return the limits of an engine that is handed the keys and values of prompts: it computes none of them."""
        return replace(self, max_num_batched_tokens=self.max_num_seqs * self.max_model_len)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What keys and values cross between the pools; every instance for prompts has one.

    Attributes:
        seconds_per_token: of a prompt; layers that cross while later ones are computed do not count.
        latency_s: per request.
    """

    seconds_per_token: float
    latency_s: float = 0.0

    def seconds(self, num_tokens: int) -> float:
        """Return what a prompt's keys and values take on an idle link."""
        return self.latency_s + num_tokens * self.seconds_per_token

    def crossed_s(self, ready: Sequence[tuple[float, int]], count: int) -> list[float]:
        """Return when prompts are across, in their order: each takes the first of ``count`` links to be idle.

        Args:
            ready: of each, when it is computed, in ascending order, and its tokens.
            count: of links, each with one prompt on it at a time.
        """
        idle_s = [0.0] * count
        return [self._crossed_s(idle_s, *one) for one in ready]

    def _crossed_s(self, idle_s: list[float], ready_s: float, num_tokens: int) -> float:
        crossed_s = max(ready_s, idle_s[0]) + self.seconds(num_tokens)
        heapq.heapreplace(idle_s, crossed_s)
        return crossed_s


@final
@dataclass(frozen=True, slots=True)
class HandedOver:
    """Steps of an instance that is handed the keys and values of prompts: only the newest token is computed."""

    steps: StepModel

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`."""
        newest = tuple(SequenceShape(1, sequence.context_after) for sequence in step.sequences)
        return self.steps.estimate(StepShape(newest), clock_share=clock_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Like instances for one phase, or for both."""

    instance: Instance
    count: int
    limits: Limits
    schedule: str = "fcfs"
    options: SimulationOptions = field(default_factory=SimulationOptions)

    @property
    def price(self) -> float:
        """Of all instances."""
        return self.count * self.instance.price

    def serve(self, trace: Trace) -> list[RequestRecord]:
        """Return what becomes of requests that this pool serves from beginning to end."""
        return list(simulate(self._cluster(self.instance.steps, self.limits), trace, self.options).requests)

    def prefill(self, trace: Trace) -> list[RequestRecord]:
        """Return what becomes of the first tokens of a trace's requests."""
        short = tuple(one._replace(num_output_tokens=1) for one in trace.requests)
        return self.serve(replace(trace, requests=short))

    def decode(self, handed: Sequence[TraceRequest]) -> list[RequestRecord]:
        """Return what becomes of requests whose prompts are computed already; in the order of their arrival."""
        cluster = self._cluster(HandedOver(self.instance.steps), self.limits.handed_over())
        return list(simulate(cluster, Trace(name="handed over", requests=tuple(handed)), self.options).requests)

    def _cluster(self, steps: StepModel, limits: Limits) -> Cluster:
        instance = self.instance
        engine = EngineConfig(
            max_model_len=limits.max_model_len,
            num_kv_blocks=max(1, instance.num_kv_tokens // instance.stages // limits.block_size),
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_waiting=_PLENTY,
            enable_prefix_caching=False,
        )
        group = ReplicaGroup(
            name=instance.name,
            count=self.count * instance.stages,
            steps=steps,
            engine=engine,
            schedule=self.schedule,
        )
        return Cluster(groups=(group,), route=_ROUTE)


def serve_apart(trace: Trace, prefill: Pool, decode: Pool, link: Link) -> list[RequestRecord]:
    """Return what becomes of a trace's requests where each phase has a pool; in the order of the trace."""
    records = prefill.prefill(trace)
    for record, one in zip(records, trace.requests, strict=True):
        record.num_output_tokens = one.num_output_tokens
    handed = _handed_over(records, link, prefill.count)
    if handed:
        rests = decode.decode([rest for rest, _ in handed])
        for rest, (_, record) in zip(rests, handed, strict=True):
            record.end_s, record.outcome = rest.end_s, rest.outcome
            record.num_tokens += rest.num_tokens
    return records


def _handed_over(records: Sequence[RequestRecord], link: Link, count: int) -> list[tuple[TraceRequest, RequestRecord]]:
    """Return what the second pool is asked, and the records that it goes on with; in the order of arriving there."""
    ready = sorted((record.end_s, record.number) for record in records if record.end_s is not None and _goes_on(record))
    going = [records[number] for _, number in ready]
    sizes = [record.num_prompt_tokens for record in going]
    crossed = link.crossed_s([(end_s, size) for (end_s, _), size in zip(ready, sizes, strict=True)], count)
    pairs = [(_rest(record, at_s), record) for record, at_s in zip(going, crossed, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0].arrival_s)


def _goes_on(record: RequestRecord) -> bool:
    return record.is_done and record.num_output_tokens > 1


def _rest(record: RequestRecord, crossed_s: float) -> TraceRequest:
    return TraceRequest(crossed_s, record.num_prompt_tokens + 1, record.num_output_tokens - 1)
