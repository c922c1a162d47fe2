"""How near its roofs the native path comes here: steps of small decoders of random packed weights, taken apart.

The layers have 4-bit weights, the output projection 8-bit ones, as in the files that are run most; products of both
reach the same rates. A deep decoder, larger than the caches, gives the reading of weights, and with some rows how much
of that hides behind computing; its first layers, with a long prompt and with many sequences, give the rates of
computing and of attention; a tiny decoder gives the overheads. Every number is the median of some steps,
as the steps of a run are not the best ones either.

The factors are those of models larger than the caches. Weights that stay in a cache from one step to the next are read
faster, so a smaller model may well be faster than predicted. Keys and values are in the engine's usual format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from steelyard.core.batch import Batch
from steelyard.core.clock import wall_s
from steelyard.core.units import MIB, ceil_div
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import (
    ATTENTION,
    ELEMENTWISE,
    KV_WRITE,
    LINEAR,
    LM_HEAD,
    OPERATORS,
    SAMPLING,
    STEP,
    OperatorCost,
    operator_costs,
)
from steelyard.cost.roofline import ModelShape, StepShape
from steelyard.engine.build import resolve_kv_cache_dtype
from steelyard.engine.calibration_steps import HEAD_DIM, decode_step_s, sequence_work, small_llama
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.prediction import QUANTISED_ARITHMETIC, num_layer_weights, quantised_shape
from steelyard.engine.sampling import Sampler
from steelyard.hardware.device import Device
from steelyard.kernels.packed_matrix import PANEL_WIDTH, HugePageArena, PackedMatrix, packed_bytes
from steelyard.memory.native_kv import NativeKVStore
from steelyard.memory.paged_kv import KVShape
from steelyard.models.config import ModelConfig
from steelyard.models.decoder import Decoder
from steelyard.models.fused import FusedDecoder
from steelyard.models.quantised import QuantisedEmbedding, QuantisedLinear, put_packed

PATH = "native"
_LAYER_FORMAT = "q4_1"
_BLOCK = 16
_FILL = 60  # as every byte of a cache: numbers of about 0.01
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 100
_MANY = 16
_PANELS = 64
_HIDDEN, _FEED_FORWARD, _HEADS, _KV_HEADS = 768, 2048, 12, 4
_VOCABULARY, _SMALL_VOCABULARY = 32_768, 2048
_PROMPT, _SEQUENCES, _CONTEXT = 512, 32, 512
_SHALLOW = 4  # layers
# The deep decoder's layers, as a multiple of the largest cache: past it nothing of them is cached; within these bounds.
_BEYOND_CACHES = 3.5
_DEEP_BYTES = (48 * MIB, 512 * MIB)
_ITERATIONS = 30
_LEAST_S = 1e-9


@dataclass(frozen=True, slots=True)
class TimedStep:
    """What a step's operators had to do at least, and what they took, seconds by operator."""

    shape: ModelShape
    step: StepShape
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sides:
    """One operator of a timed step, without its overhead: what its roofs allow, and what it took."""

    compute_s: float
    memory_s: float
    seconds: float


def calibrate_native(device: Device, budget_s: float = 0.1) -> Calibration:
    """Return the factors of the native path with as many threads as PyTorch uses now; the extension must be there.

    Args:
        device: the CPU's description; its bandwidth and its rate of 8-bit products are known.
        budget_s: for the repeats of one step.
    """
    cache_bytes = max((cache.capacity_bytes for cache in device.caches), default=0)
    with torch.inference_mode():
        deep = random_decoder(_config(_depth(_BEYOND_CACHES * cache_bytes, *_DEEP_BYTES)))
        shallow = _beginning(deep, _config(_SHALLOW))
        small = random_decoder(_config(_depth(cache_bytes / 4, 0, _DEEP_BYTES[0]), _SMALL_VOCABULARY))
        tiny = random_decoder(
            small_llama(2, hidden_size=64, feed_forward_size=64, num_heads=1, num_kv_heads=1, vocab_size=256)
        )
        one, some = (timed_step(deep, StepShape.of(*[(1, _BLOCK)] * rows), budget_s) for rows in (1, _MANY))
        long = timed_step(shallow, StepShape.of((_PROMPT, _PROMPT)), budget_s)
        many = timed_step(shallow, StepShape.of(*[(1, _CONTEXT)] * _SEQUENCES), budget_s)
        cached = timed_step(small, StepShape.of((1, _BLOCK)), budget_s)
        least = timed_step(tiny, StepShape.of((1, _BLOCK)), budget_s / 2)
        fitter = Fitter(device, least)
        fits = (
            fitter.fit(LINEAR, reading=one, computing=long, mixed=some, cached=cached),
            fitter.fit(KV_WRITE, reading=many, computing=long, hidden=0.0),
            fitter.fit(ATTENTION, reading=many, computing=long),
            fitter.fit(ELEMENTWISE, reading=long, computing=long),
            fitter.fit(LM_HEAD, reading=one, computing=many, mixed=some, cached=cached),
            fitter.fit(SAMPLING, reading=many, computing=many),
        )
        whole_s = decode_step_s(decoder_runner(tiny, 2), tiny.config.vocab_size)
        parts_s = sum(least.seconds[fit.operator] for fit in fits)
    step = OperatorFit(operator=STEP, dtype=QUANTISED_ARITHMETIC, overhead_s=max(whole_s - parts_s, 0.0))
    return Calibration(path=PATH, fits=(*fits, step), num_threads=torch.get_num_threads())


def _config(depth: int, vocab_size: int = _VOCABULARY) -> ModelConfig:
    return small_llama(
        depth, hidden_size=_HIDDEN, feed_forward_size=_FEED_FORWARD, num_heads=_HEADS, num_kv_heads=_KV_HEADS,
        vocab_size=vocab_size,
    )  # fmt: skip


def _depth(num_bytes: float, least_bytes: float, most_bytes: float) -> int:
    """Return the layers that take about ``num_bytes``, or the nearer bound."""
    config = _config(1)
    attention = config.layers[0].attention
    rows = ((attention.q_size + 2 * attention.kv_size, _HIDDEN), (_HIDDEN, attention.q_size))
    shapes = (*rows, (2 * _FEED_FORWARD, _HIDDEN), (_HIDDEN, _FEED_FORWARD))
    layer_bytes = sum(packed_bytes(_LAYER_FORMAT, *shape) for shape in shapes)
    return max(_SHALLOW, round(min(max(num_bytes, least_bytes), most_bytes) / layer_bytes))


def random_decoder(config: ModelConfig) -> Decoder:
    """Return a decoder of packed random weights, each matrix in memory of its own: some panels, again and again."""
    with torch.device("meta"):
        decoder = Decoder(config)
    allocate = HugePageArena()
    linears = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    for path in linears:
        _put_random(decoder, path, "q8" if path == "lm_head" else "q4", allocate)
    assert isinstance(decoder.lm_head, QuantisedLinear)
    decoder.embed = QuantisedEmbedding(decoder.lm_head.packed)
    for name, parameter in list(decoder.named_parameters()):
        path, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(path), leaf, nn.Parameter(torch.ones(parameter.shape, device="cpu"), False))
    return decoder.eval()


def _put_random(decoder: Decoder, path: str, quantiser: str, allocate: Callable[[int], torch.Tensor]) -> None:
    linear = decoder.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    num_rows, num_inputs = linear.weight.shape
    generator = torch.Generator().manual_seed(0)
    # Few panels, as drawing takes time; enough that few tokens of a vocabulary are as likely as the likeliest.
    some_rows = min(_PANELS * PANEL_WIDTH, num_rows)
    some = PackedMatrix.from_float(torch.randn(some_rows, num_inputs, generator=generator) / num_inputs, quantiser)
    data = allocate(packed_bytes(some.format, num_rows, num_inputs))
    for rows in torch.split(data, some.num_bytes):
        rows.copy_(some.data[: len(rows)])
    put_packed(decoder, path, PackedMatrix(data, some.format, num_rows, num_inputs))


def _beginning(decoder: Decoder, config: ModelConfig) -> Decoder:
    """Return a decoder of the first layers of another, whose weights it shares."""
    with torch.device("meta"):
        short = Decoder(config)
    short.layers = decoder.layers[: config.num_layers]
    short.embed, short.norm, short.lm_head = decoder.embed, decoder.norm, decoder.lm_head
    return short.eval()


def decoder_runner(decoder: Decoder, num_blocks: int) -> ModelRunner:
    """Return a runner of the decoder over so many blocks of keys and values, which are there and not zero."""
    config = decoder.config
    attention = config.layers[0].attention
    shape = KVShape(
        num_layers=config.num_layers, num_kv_heads=attention.num_kv_heads, head_dim=HEAD_DIM, block_size=_BLOCK,
        dtype=resolve_kv_cache_dtype("auto", torch.float32, native=True),
    )  # fmt: skip
    store = NativeKVStore(shape, num_blocks)
    for layer in range(config.num_layers):
        store.layer(layer).fill_(_FILL)
    return ModelRunner(FusedDecoder(decoder), store, Sampler())


def decoder_shape(decoder: Decoder, runner: ModelRunner) -> ModelShape:
    """Return what decides a packed decoder's cost."""
    config, head = decoder.config, decoder.lm_head
    assert isinstance(head, QuantisedLinear)
    packed = [m.packed.num_bytes for m in decoder.layers.modules() if isinstance(m, QuantisedLinear)]
    return quantised_shape(
        config,
        sum(packed) / num_layer_weights(config),
        runner.kv_shape.dtype.itemsize,
        head.packed.num_bytes / (config.hidden_size * config.vocab_size),
    )


def timed_step(decoder: Decoder, step: StepShape, budget_s: float) -> TimedStep:
    """Run a step for about ``budget_s`` and return the median seconds of each of its operators."""
    blocks = sum(ceil_div(sequence.context_after, _BLOCK) for sequence in step.sequences)
    runner = decoder_runner(decoder, blocks)
    works = tuple(
        sequence_work(sequence.num_new_tokens, sequence.context_after, _BLOCK, number)
        for number, sequence in enumerate(step.sequences)
    )
    batch = Batch(0, works)
    rounds: list[dict[str, float]] = []
    runner.run(batch)
    runner.take_profile()
    end_s = wall_s() + budget_s
    while len(rounds) < _LEAST_ROUNDS or (wall_s() < end_s and len(rounds) < _MOST_ROUNDS):
        runner.run(batch)
        rounds.append(runner.take_profile())
    seconds = {name: median(one[name] for one in rounds) for name in rounds[0]}
    return TimedStep(decoder_shape(decoder, runner), step, seconds)


class Fitter:
    """Turns timed steps into operators' factors.

    Args:
        device: its rates are the roofs.
        least: a step that does nearly nothing: its time is overhead.
    """

    def __init__(self, device: Device, least: TimedStep) -> None:
        self._device, self._least = device, least

    def fit(
        self,
        name: str,
        *,
        reading: TimedStep,
        computing: TimedStep,
        mixed: TimedStep | None = None,
        cached: TimedStep | None = None,
        hidden: float = 1.0,
    ) -> OperatorFit:
        """Return an operator's factors.

        Args:
            name: the operator.
            reading: a step in which it waits for the memory.
            computing: a step in which it waits for arithmetic.
            mixed: a step in which both take about as long, which tells how much of the shorter is hidden.
            cached: a step that finds its bytes in a cache.
            hidden: how much of the shorter is, without ``mixed``.
        """
        overhead_s = self._overhead_s(name, reading, computing)

        def sides(timed: TimedStep) -> Sides:
            return self._sides(name, timed, overhead_s)

        between = None if mixed is None else sides(mixed)
        compute, memory, overlap = solve(sides(reading), sides(computing), between, hidden)
        within = None
        if cached is not None:
            found = sides(cached)
            within = max(memory, found.memory_s / found.seconds)
        return OperatorFit(
            operator=name,
            dtype=QUANTISED_ARITHMETIC,
            compute_efficiency=compute,
            memory_efficiency=memory,
            overhead_s=overhead_s,
            overlap=overlap,
            cached_efficiency=within,
        )

    def _overhead_s(self, name: str, *working: TimedStep) -> float:
        """Return the overhead of a call: at most half of one that works, however noisy the timings are."""
        calls = [(self._cost(name, timed).num_calls, timed.seconds[name]) for timed in working]
        tiny_s = self._least.seconds[name] / self._cost(name, self._least).num_calls
        return min(tiny_s, *(seconds / count / 2 for count, seconds in calls))

    def _sides(self, name: str, timed: TimedStep, overhead_s: float) -> Sides:
        cost = self._cost(name, timed)
        return Sides(
            cost.flop / self._device.flop_per_s(QUANTISED_ARITHMETIC),
            cost.num_bytes / self._device.bandwidth_bytes_per_s,
            max(timed.seconds[name] - cost.num_calls * overhead_s, _LEAST_S),
        )

    def _cost(self, name: str, timed: TimedStep) -> OperatorCost:
        return operator_costs(timed.shape, timed.step, self._device)[OPERATORS.index(name)]


def solve(reading: Sides, computing: Sides, mixed: Sides | None, hidden: float = 1.0) -> tuple[float, float, float]:
    """Return ``compute_efficiency``, ``memory_efficiency`` and ``overlap`` that give the timings.

    Without a mixed one the overlap is ``hidden``.

    Each step shows a little of the side that it does not wait for, so the three depend on each other; going round a
    few times settles them.
    """
    slower_compute, slower_memory = computing.seconds / computing.compute_s, reading.seconds / reading.memory_s
    shown = 1 - hidden
    for _ in range(_ITERATIONS):
        if mixed is not None:
            sides = mixed.compute_s * slower_compute, mixed.memory_s * slower_memory
            shown = min(1.0, max(0.0, (mixed.seconds - max(sides)) / min(sides)))
        rest_s = reading.seconds - shown * reading.compute_s * slower_compute
        slower_memory = max(rest_s, reading.seconds / 2) / reading.memory_s
        rest_s = computing.seconds - shown * computing.memory_s * slower_memory
        slower_compute = max(rest_s, computing.seconds / 2) / computing.compute_s
    return 1 / slower_compute, 1 / slower_memory, 1 - shown
