"""Nano-batches: one batch cut so that computing, memory and network work at once: :func:`search` (S45, NanoFlow).

From the paper: the operators of a layer by what bounds them, the optimum (compute-bound), and a search over number and
order of nano-batches and over the GPU's shares. Chosen by us: curves from a share of the GPU to a share of an
operator's rate (:data:`RATE_PER_SHARE`), two orders, even nano-batches and a grid of shares small enough to be tried
whole; no solver is needed. Left out: launching, sampling, the output projection, and queues (the batch is always full).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.cost.collectives import FITS, AlphaBeta, Collective, link_fit
from steelyard.cost.roofline import ModelShape
from steelyard.hardware.catalogue.read import find_device, find_link
from steelyard.plan.serving_catalogue import ServingDevice, kv_token_bytes, weights_bytes

GEMM_SHARE = 260 / 312
"""Of a device's peak: the paper's optimum of 1,857 tokens/s and GPU is 260 of the A100's 312 Tflop/s over 2 · 70e9; so
inferred from it, and assumed of other devices."""


class Bound(Enum):
    """What an operator waits for."""

    COMPUTE = "compute"
    MEMORY = "memory"
    NETWORK = "network"


class Order(Enum):
    """Which nano-batch an idle resource takes first."""

    LEAST_ADVANCED = "least advanced"
    FIRST_BATCH = "first batch"


RATE_PER_SHARE = {Bound.COMPUTE: 1.0, Bound.MEMORY: 2.0, Bound.NETWORK: 2.5}
"""Share of the GPU → share of the rate, up to all of it: a few cores saturate memory and links. Our choice."""
_NUM_NANO = (1, 2, 3, 4)
_MEMORY_SHARES = (0.2, 0.3, 0.4, 0.5)
_NETWORK_SHARES = (0.1, 0.2, 0.3)
_AFTER = {1: (0,), 2: (0,), 3: (1, 2), 4: (3,), 5: (4,), 6: (5,)}
"""Operator → those of its layer that it waits for; the first waits for the last one of the layer before."""
_LAST = max(_AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoJob:
    """A full, steady batch: of every request ``prompt_tokens`` are prefilled and ``answer_tokens`` decoded.

    Attributes:
        num_devices: of the tensor-parallel group.
        batch_tokens: computed per step, prefill and decode together.

    Raises:
        ParamsError: if a number is below 1, or several devices have no link.
        MemoryBudgetError: if weights and the caches of the decoding requests do not fit.
    """

    model: ModelShape
    device: ServingDevice
    num_devices: int = 8
    batch_tokens: int = 2048
    prompt_tokens: int = 512
    answer_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("num_devices", "batch_tokens", "prompt_tokens", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")
        if self.num_devices > 1 and find_device(self.device.name).peer_link is None:
            raise ParamsError(f"{self.device.name} has no peer link", field="num_devices", remedy="Give 1")
        room = self.num_devices * self.device.memory_bytes - weights_bytes(self.model)
        per_token = self.decode_share * self.mean_context * kv_token_bytes(self.model)
        if room < self.batch_tokens * per_token:
            enough = int(room // per_token)
            remedy = f"Take at most {enough} batch tokens" if enough > 0 else "Take more devices or a smaller model"
            raise MemoryBudgetError("weights and caches do not fit", field="memory", remedy=remedy)

    @property
    def decode_share(self) -> float:
        """Decoded tokens of all tokens."""
        return self.answer_tokens / (self.prompt_tokens + self.answer_tokens)

    @property
    def mean_context(self) -> float:
        """Tokens that a decoding request has behind it, on average."""
        return self.prompt_tokens + self.answer_tokens / 2

    @property
    def gemm_flop_per_s(self) -> float:
        """What matrix products of one device reach."""
        return GEMM_SHARE * self.device.device.flop_per_s(self.model.dtype)

    @property
    def optimal_s(self) -> float:
        """The step if only the layers' matrices took time."""
        return 2 * self.model.num_layer_params * self.batch_tokens / self.num_devices / self.gemm_flop_per_s

    def tokens_per_s(self, step_s: float) -> float:
        """Return tokens per second and device of steps that take ``step_s``."""
        return self.batch_tokens / step_s / self.num_devices


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a layer: seconds with the whole device, by what it uses."""

    name: str
    compute_s: float = 0.0
    memory_s: float = 0.0
    network_s: float = 0.0

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self.compute_s, self.memory_s, self.network_s)

    @property
    def bound(self) -> Bound:
        """What takes longest."""
        by_time = {Bound.COMPUTE: self.compute_s, Bound.MEMORY: self.memory_s, Bound.NETWORK: self.network_s}
        return max(by_time, key=lambda one: by_time[one])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What the search decides: how the batch is cut, and which share each resource's operators take beside others."""

    num_nano: int
    order: Order
    memory_share: float
    network_share: float


@dataclass(frozen=True, slots=True)
class Span:
    """One operator of one nano-batch and layer on the timeline; seconds from the step's start."""

    nano: int
    layer: int
    operator: int
    bound: Bound
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoPlan:
    """The fastest pipeline (``None`` if nothing beats one operator after another), its timeline, and that step."""

    pipeline: Pipeline | None
    spans: tuple[Span, ...]
    sequential_s: float

    @property
    def step_s(self) -> float:
        """Time of a step."""
        return max(span.end_s for span in self.spans)


def operators(job: NanoJob, num_tokens: float) -> tuple[Operator, ...]:
    """Return a layer's operators for ``num_tokens`` of the batch, on one device of the group, in order."""
    model = job.model
    heads = model.num_heads * model.head_dim
    project = model.hidden_size * (heads + 2 * model.num_kv_heads * model.head_dim)
    leave = model.hidden_size * heads
    rest = model.num_layer_params / model.num_layers - project - leave
    decoded = job.decode_share * num_tokens
    pair_flop = 4 * heads / job.num_devices
    pairs = (num_tokens - decoded) * (job.prompt_tokens + 1) / 2
    cache_bytes = decoded * job.mean_context * kv_token_bytes(model) / model.num_layers / job.num_devices
    rate, memory = job.gemm_flop_per_s, job.device.device.bandwidth_bytes_per_s
    message = num_tokens * model.hidden_size * model.kv_bytes
    reduce_s = _link(job).seconds(Collective.ALL_REDUCE, job.num_devices, message)

    def product(name: str, params: float) -> Operator:
        own = params / job.num_devices
        return Operator(name, 2 * own * num_tokens / rate, own * model.weight_bytes / memory)

    return (
        product("qkv", project),
        Operator("prefill attention", compute_s=pairs * pair_flop / rate),
        Operator("decode attention", decoded * job.mean_context * pair_flop / rate, cache_bytes / memory),
        product("output", leave),
        Operator("all-reduce 1", network_s=reduce_s),
        product("feed-forward", rest),
        Operator("all-reduce 2", network_s=reduce_s),
    )


def sequential_s(job: NanoJob) -> float:
    """Return the step with one operator after another, each with the whole device."""
    return job.model.num_layers * sum(one.seconds for one in operators(job, job.batch_tokens))


def candidates() -> Iterator[Pipeline]:
    """Yield every pipeline that the search tries; the first does not overlap anything but attention's two halves."""
    for num_nano, order, memory, network in itertools.product(_NUM_NANO, Order, _MEMORY_SHARES, _NETWORK_SHARES):
        yield Pipeline(num_nano=num_nano, order=order, memory_share=memory, network_share=network)


def search(job: NanoJob) -> NanoPlan:
    """Return the fastest of all candidates, or the sequential step if none is faster."""
    before = sequential_s(job)
    tried = ((pipeline, timeline(job, pipeline)) for pipeline in candidates())
    pipeline, spans = min(tried, key=lambda one: max(span.end_s for span in one[1]))
    plan = NanoPlan(pipeline=pipeline, spans=spans, sequential_s=before)
    return plan if plan.step_s < before else NanoPlan(pipeline=None, spans=_in_a_row(job), sequential_s=before)


def timeline(job: NanoJob, pipeline: Pipeline) -> tuple[Span, ...]:
    """Return when each operator runs: one per resource at a time, slowed by the shares of those beside it."""
    layer = operators(job, job.batch_tokens / pipeline.num_nano)
    queue = _Queue(layer, pipeline, job.model.num_layers)
    running: dict[Bound, _Running] = {}
    spans: list[Span] = []
    now = 0.0
    while queue.start_idle(running, now):
        rates = shared_rates(frozenset(running), pipeline)
        first = min(running, key=lambda bound: running[bound].left_s / rates[bound])
        passed = running[first].left_s / rates[first]
        now += passed
        for bound, one in running.items():
            one.left_s -= passed * rates[bound]
        done = running.pop(first)
        spans.append(Span(done.nano, done.place // len(layer), done.place % len(layer), first, done.start_s, now))
        queue.finish(done.nano, done.place)
    return tuple(spans)


@dataclass(slots=True)
class _Running:
    """An operator on its resource: ``place`` counts operators through all layers."""

    nano: int
    place: int
    left_s: float
    start_s: float


class _Queue:
    """Operators that wait for nothing but their resource, in the pipeline's order."""

    def __init__(self, layer: tuple[Operator, ...], pipeline: Pipeline, num_layers: int) -> None:
        self._layer, self._order = layer, pipeline.order
        self._num_places = num_layers * len(layer)
        self._ready: dict[Bound, list[tuple[tuple[int, int], int, int]]] = {bound: [] for bound in Bound}
        self._done: set[tuple[int, int]] = set()
        for nano in range(pipeline.num_nano):
            self._offer(nano, 0)

    def start_idle(self, running: dict[Bound, _Running], now: float) -> bool:
        """Start an operator on each idle resource that has one; return whether anything runs."""
        for bound in Bound:
            if bound not in running and self._ready[bound]:
                _, nano, place = heapq.heappop(self._ready[bound])
                running[bound] = _Running(nano, place, self._at(place).seconds, now)
        return bool(running)

    def finish(self, nano: int, place: int) -> None:
        """Note that an operator is done, and offer those that waited for it alone."""
        self._done.add((nano, place))
        for follower in _freed(nano, place, self._done, self._num_places):
            self._offer(nano, follower)

    def _offer(self, nano: int, place: int) -> None:
        key = (nano, place) if self._order is Order.FIRST_BATCH else (place, nano)
        heapq.heappush(self._ready[self._at(place).bound], (key, nano, place))

    def _at(self, place: int) -> Operator:
        return self._layer[place % len(self._layer)]


def shared_rates(active: frozenset[Bound], pipeline: Pipeline) -> dict[Bound, float]:
    """Return each active resource's share of its full rate; alone it has all of it."""
    if len(active) == 1:
        return dict.fromkeys(active, 1.0)
    shares = {Bound.MEMORY: pipeline.memory_share, Bound.NETWORK: pipeline.network_share}
    taken = sum(shares[bound] for bound in active if bound in shares)
    shares[Bound.COMPUTE] = 1 - taken
    return {bound: min(1.0, RATE_PER_SHARE[bound] * shares[bound]) for bound in active}


def _freed(nano: int, place: int, done: set[tuple[int, int]], num_places: int) -> Iterator[int]:
    """Yield the places that wait for ``place`` and for nothing else any more."""
    operator = place % (_LAST + 1)
    start = place - operator
    if operator == _LAST and place + 1 < num_places:
        yield place + 1
    for follower, needs in _AFTER.items():
        if operator in needs and all((nano, start + need) in done for need in needs):
            yield start + follower


def _in_a_row(job: NanoJob) -> tuple[Span, ...]:
    layer, now, spans = operators(job, job.batch_tokens), 0.0, []
    for number, (index, one) in itertools.product(range(job.model.num_layers), enumerate(layer)):
        spans.append(Span(0, number, index, one.bound, now, now + one.seconds))
        now += one.seconds
    return tuple(spans)


def _link(job: NanoJob) -> AlphaBeta:
    """Return the link as collectives were measured on it, or by its data sheet."""
    found = find_device(job.device.name)
    if job.device.name in FITS or found.peer_link is None:
        return FITS.get(job.device.name, AlphaBeta(start_s=0.0, hop_s=0.0, bytes_per_s=float("inf")))
    return link_fit(find_link(found.peer_link))
