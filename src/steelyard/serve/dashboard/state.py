"""What the page is told: the JSON of ``GET /dashboard/state``, and :class:`Dashboard`, which makes it.

Times are seconds of the server's event loop, from an origin that is another after each start; ``instance`` tells
one start from the next. Nobody's text, request ids or names are in it: whoever has a key may see how busy the server
is, not with what.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from steelyard import __version__
from steelyard.core.clock import now_s, process_cpu_s
from steelyard.core.errors import InputError
from steelyard.core.units import ceil_div
from steelyard.cost.roofline import StepShape
from steelyard.engine.pricing import Pricing, StepPrice
from steelyard.engine.view import LiveSequence
from steelyard.hardware.device import machine_table
from steelyard.hardware.this_machine import rss_bytes
from steelyard.memory.kv_manager import BlockState
from steelyard.serve.dashboard.hardware import KnownHardware
from steelyard.serve.dashboard.recent import EndedRequest
from steelyard.serve.dashboard.watch import BUCKET_S, Bucket, EngineWatch, Phase, Span, StepSum, can_price
from steelyard.serve.identity import new_id
from steelyard.serve.llm import ServedEngine, ServedLLM
from steelyard.serve.pool import ModelState as LoadState
from steelyard.serve.pool import ServedModel
from steelyard.serve.service import Service

# One user's prompt and context, for what a single stream should reach.
_PROMPT_TOKENS = 256
_CONTEXT_TOKENS = 512
_MAX_CELLS = 2048


class ModelState(TypedDict):
    """A model: ``state`` is idle, loading, ready or failed; ``num_requests`` are HTTP requests that use it."""

    name: str
    state: str
    num_requests: int
    held_bytes: int


class PhaseState(TypedDict):
    """Steps of one phase. ``predicted_s`` and ``limit_s`` are of the steps that took ``priced_s``."""

    num_steps: int
    measured_s: float
    priced_s: float
    predicted_s: float | None
    limit_s: float


class BucketState(TypedDict):
    """Half a second of an engine; see :class:`~steelyard.serve.dashboard.watch.Bucket`."""

    start_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    prefill: PhaseState
    decode: PhaseState
    num_bytes: float
    flop: float
    num_gaps: int
    gap_sum_s: float
    gap_max_s: float
    num_running: int
    num_waiting: int
    num_preemptions: int


class SequenceState(TypedDict):
    """A sequence that waits or runs."""

    id: int
    running: bool
    arrival_s: float
    num_prompt_tokens: int
    num_tokens: int
    num_computed_tokens: int
    num_blocks: int
    num_preemptions: int


class SpanState(TypedDict):
    """A stretch of prefill or decode of one sequence; the same id, phase and start may be told again, longer."""

    id: int
    phase: str
    start_s: float
    end_s: float
    num_tokens: int


class RequestState(TypedDict):
    """A request that ended."""

    ended_s: float
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    reason: str


class KVState(TypedDict):
    """The KV cache. ``cells`` has one digit for ``blocks_per_cell`` blocks, the busiest of theirs: 0 empty, 1 cached, 2
    used by one sequence, 3 shared."""

    num_blocks: int
    block_size: int
    num_empty: int
    num_cached: int
    num_used: int
    num_shared: int
    num_hit_tokens: int
    num_miss_tokens: int
    blocks_per_cell: int
    cells: str


class RateState(TypedDict):
    """Tokens per second of one user: predicted, and by the roofline."""

    predicted: float | None
    limit: float


class ExpectedState(TypedDict):
    """What one user alone should see, with a prompt of 256 tokens and a context of 512."""

    prefill: RateState
    decode: RateState


class EngineState(TypedDict):
    """An engine: what it is, how it is now, and what happened since the time that was asked for."""

    bucket_s: float
    max_num_seqs: int
    max_model_len: int
    max_num_batched_tokens: int
    num_running: int
    num_waiting: int
    kv: KVState
    sequences: list[SequenceState]
    expected: ExpectedState | None
    buckets: list[BucketState]
    spans: list[SpanState]
    requests: list[RequestState]


class MachineState(TypedDict):
    """This machine: ``description`` as ``steelyard probe`` stores it. ``device`` is the model's, and ``dtype`` the
    number format of its arithmetic; ``measured_at`` is ``None`` if nobody has measured the machine."""

    measured_at: str | None
    quick: bool
    busy: bool
    device: str
    dtype: str | None
    description: dict[str, Any]


class ProcessState(TypedDict):
    """The server's process; ``cpu_s`` counts all of its threads."""

    cpu_s: float
    num_cores: int
    rss_bytes: int
    memory_bytes: int


class DashboardState(TypedDict):
    """The whole answer. ``ready`` is as ``/health`` has it; ``engine`` is ``None`` while ``model`` is not in memory."""

    instance: str
    version: str
    now_s: float
    ready: bool
    models: list[ModelState]
    model: str
    engine: EngineState | None
    machine: MachineState
    process: ProcessState


class Dashboard:
    """Makes the page's data. Use it within the server's event loop.

    Args:
        service: what is shown.
        hardware: what is known of this machine.
    """

    def __init__(self, service: Service, hardware: KnownHardware) -> None:
        self._service, self._hardware = service, hardware
        self._watches: dict[str, EngineWatch] = {}
        self._instance = new_id("server")

    def state(self, name: str | None, since_s: float) -> DashboardState:
        """Return how a model does now, and what happened to it after ``since_s``.

        Args:
            name: of the model, or an alias; ``None`` for the first.
            since_s: ``now_s`` of the answer before; 0 for all that is known.

        Raises:
            ApiError: 404 if there is no such model.
        """
        pool = self._service.pool
        model = pool.find(pool.answer_name(name))
        if self._hardware.refresh():
            self._watches.clear()  # their prices are old; what they saw is forgotten with them
        watch = self._watch(model)
        now = now_s()
        engine = None if watch is None else self._engine_state(model, watch, since_s)
        return {
            "instance": self._instance,
            "version": __version__,
            "now_s": now,
            "ready": self._service.is_ready,
            "models": [_model_state(one) for one in pool.models],
            "model": model.name,
            "engine": engine,
            "machine": self._machine_state(watch),
            "process": self._process_state(),
        }

    def _watch(self, model: ServedModel) -> EngineWatch | None:
        """Look at a model's engine and return its watch; ``None`` while the model is not in memory."""
        if model.state is not LoadState.READY or model.llm is None:
            return None
        engine, watch = model.llm.start(), self._watches.get(model.name)
        if watch is None or watch.engine is not engine:
            watch = self._watches[model.name] = EngineWatch(engine, self._pricing(model.llm))
        watch.look()
        return watch

    def _pricing(self, llm: ServedLLM) -> Pricing | None:
        profile = self._hardware.profile
        if profile is None:
            return None
        try:
            pricing = llm.pricing(profile)
        except InputError:
            return None
        return pricing if can_price(pricing) else None

    def _engine_state(self, model: ServedModel, watch: EngineWatch, since_s: float) -> EngineState:
        engine, config = watch.engine, watch.engine.config
        return {
            "bucket_s": BUCKET_S,
            "max_num_seqs": config.max_num_seqs,
            "max_model_len": config.max_model_len,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "num_running": engine.num_running,
            "num_waiting": engine.num_waiting,
            "kv": kv_state(engine),
            "sequences": [_sequence_state(one) for one in engine.live_sequences()],
            "expected": None if watch.pricing is None else expected_state(watch.pricing),
            "buckets": [_bucket_state(one) for one in watch.buckets(since_s)],
            "spans": [_span_state(one) for one in watch.spans(since_s)],
            "requests": [_request_state(one) for one in self._service.recent.of(model.name, since_s)],
        }

    def _machine_state(self, watch: EngineWatch | None) -> MachineState:
        profile, pricing = self._hardware.profile, None if watch is None else watch.pricing
        return {
            "measured_at": None if profile is None else profile.measured_at,
            "quick": profile is not None and profile.quick,
            "busy": profile is not None and profile.busy,
            "device": self._hardware.machine.devices[0].name if pricing is None else pricing.device.name,
            "dtype": None if pricing is None else pricing.model.dtype,
            "description": machine_table(self._hardware.machine),
        }

    def _process_state(self) -> ProcessState:
        here = self._hardware.machine_here()
        return {
            "cpu_s": process_cpu_s(),
            "num_cores": here.num_usable_cores,
            "rss_bytes": rss_bytes(),
            "memory_bytes": here.devices[0].memory[0].capacity_bytes,
        }


def kv_state(engine: ServedEngine) -> KVState:
    """Return how an engine's KV cache is used now."""
    states, usage = engine.kv_block_states, engine.kv_usage
    per_cell = ceil_div(len(states), _MAX_CELLS)
    cells = "".join(str(max(states[at : at + per_cell])) for at in range(0, len(states), per_cell))
    return {
        "num_blocks": usage.num_blocks,
        "block_size": engine.config.block_size,
        "num_empty": states.count(BlockState.EMPTY),
        "num_cached": states.count(BlockState.CACHED),
        "num_used": states.count(BlockState.USED),
        "num_shared": states.count(BlockState.SHARED),
        "num_hit_tokens": usage.num_hit_tokens,
        "num_miss_tokens": usage.num_miss_tokens,
        "blocks_per_cell": per_cell,
        "cells": cells,
    }


def expected_state(pricing: Pricing) -> ExpectedState:
    """Return what one user alone should see."""
    prefill = pricing.price(StepShape.of((_PROMPT_TOKENS, _PROMPT_TOKENS)))
    decode = pricing.price(StepShape.of((1, _CONTEXT_TOKENS)))
    return {"prefill": _rate(_PROMPT_TOKENS, prefill), "decode": _rate(1, decode)}


def _rate(num_tokens: int, price: StepPrice) -> RateState:
    predicted_s = price.predicted_s
    return {"predicted": num_tokens / predicted_s if predicted_s else None, "limit": num_tokens / price.limit_s}


def _model_state(model: ServedModel) -> ModelState:
    return {
        "name": model.name,
        "state": model.state.value,
        "num_requests": model.num_leases,
        "held_bytes": model.held_bytes,
    }


def _sequence_state(one: LiveSequence) -> SequenceState:
    return {
        "id": one.id,
        "running": one.running,
        "arrival_s": one.arrival_s,
        "num_prompt_tokens": one.num_prompt_tokens,
        "num_tokens": one.num_tokens,
        "num_computed_tokens": one.num_computed_tokens,
        "num_blocks": one.num_blocks,
        "num_preemptions": one.num_preemptions,
    }


def _bucket_state(bucket: Bucket) -> BucketState:
    return {
        "start_s": bucket.start_s,
        "num_prompt_tokens": bucket.num_prompt_tokens,
        "num_output_tokens": bucket.num_output_tokens,
        "prefill": _phase_state(bucket.phases[Phase.PREFILL]),
        "decode": _phase_state(bucket.phases[Phase.DECODE]),
        "num_bytes": bucket.num_bytes,
        "flop": bucket.flop,
        "num_gaps": bucket.num_gaps,
        "gap_sum_s": bucket.gap_sum_s,
        "gap_max_s": bucket.gap_max_s,
        "num_running": bucket.num_running,
        "num_waiting": bucket.num_waiting,
        "num_preemptions": bucket.num_preemptions,
    }


def _phase_state(phase: StepSum) -> PhaseState:
    return {
        "num_steps": phase.num_steps,
        "measured_s": phase.measured_s,
        "priced_s": phase.priced_s,
        "predicted_s": phase.predicted_s,
        "limit_s": phase.limit_s,
    }


def _span_state(span: Span) -> SpanState:
    return {
        "id": span.sequence_id,
        "phase": span.phase.value,
        "start_s": span.start_s,
        "end_s": span.end_s,
        "num_tokens": span.num_tokens,
    }


def _request_state(one: EndedRequest) -> RequestState:
    return {
        "ended_s": one.ended_s,
        "num_prompt_tokens": one.num_prompt_tokens,
        "num_cached_tokens": one.num_cached_tokens,
        "num_output_tokens": one.num_output_tokens,
        "ttft_s": one.ttft_s,
        "tpot_s": one.tpot_s,
        "reason": one.reason.value,
    }
