"""How near its roofs this engine comes here: its own operators, timed on a few shapes, make a calibration.

Each operator is timed alone: a call that is nearly nothing gives the overhead, one that reads much the share of the
bandwidth, one that computes much the share of the rate. What no operator owns (the glue between them within a layer,
and the step around the layers) is what small decoders of random weights take beyond their operators. Takes two or
three seconds per number format. Quantised weights are :mod:`steelyard.engine.native_calibration`'s. Left out: GPUs,
mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from steelyard.core.units import ceil_div
from steelyard.cost import operators
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.roofline import ModelShape, StepShape, Work, attention_work
from steelyard.engine.calibration_steps import HEAD_DIM, decode_step_s, sequence_work, small_llama
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.prediction import model_shape
from steelyard.engine.sampling import Sampler
from steelyard.hardware.device import Device
from steelyard.hardware.probe.reading import best_of
from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.linear import PackedLinear, TiledLinear, can_pack
from steelyard.memory.paged_kv import KVShape, PagedKVStore, PagedStepKV
from steelyard.memory.step_plan import plan_step
from steelyard.models.config import ModelConfig
from steelyard.models.decoder import Decoder

PATH = "torch"
DTYPES = (torch.float32, torch.bfloat16)
_HEADS, _BLOCK = 8, 16
_LINEAR_SIZE = (4096, 8192)  # larger than most caches in either format
_TINY_LINEAR = (64, 64)
_MANY_ROWS, _LONG_CONTEXT, _SHORT_CONTEXT = 256, 2048, 16
_VOCABULARY, _TINY_VOCABULARY = 1 << 17, 1 << 10
_DEPTHS = (2, 8)
_LEAST_S = 1e-9  # keeps shares finite


@dataclass(frozen=True, slots=True)
class Timed:
    """Work that was done, and the seconds it took."""

    work: Work
    seconds: float


def calibrate(device: Device, dtypes: tuple[torch.dtype, ...] = DTYPES, budget_s: float = 0.1) -> Calibration:
    """Return the engine's factors on the CPU, with as many threads as PyTorch uses now.

    Args:
        device: the CPU's description with measured rates; formats whose rate is unknown are left out.
        dtypes: number formats to measure.
        budget_s: for one timing.
    """
    known = {peak.dtype for peak in device.peaks}
    cpu = torch.device("cpu")
    chosen = [d for d in dtypes if _name(d) in known and (d is torch.float32 or can_pack(cpu, d))]
    with torch.inference_mode():
        fits = tuple(fit for dtype in chosen for fit in _fits(device, dtype, budget_s))
    return Calibration(path=PATH, fits=fits, num_threads=torch.get_num_threads())


def operator_fit(name: str, dtype: str, device: Device, tiny_s: float, reading: Timed, computing: Timed) -> OperatorFit:
    """Return an operator's factors from three timings.

    However noisy they are, overhead is taken for at most half of a call that is mostly work.

    Args:
        tiny_s: of a call that does nearly nothing.
        reading: a call that is limited by reading.
        computing: a call that is limited by computing.
    """
    overhead_s = min(tiny_s, reading.seconds / 2, computing.seconds / 2)
    memory_s, compute_s = (max(timed.seconds - overhead_s, _LEAST_S) for timed in (reading, computing))
    return OperatorFit(
        operator=name,
        dtype=dtype,
        overhead_s=overhead_s,
        memory_efficiency=reading.work.num_bytes / device.bandwidth_bytes_per_s / memory_s,
        compute_efficiency=computing.work.flop / device.flop_per_s(dtype) / compute_s,
    )


def _fits(device: Device, dtype: torch.dtype, budget_s: float) -> tuple[OperatorFit, ...]:
    linear = _linear_fit(device, dtype, budget_s)
    attention = _attention_fit(device, dtype, budget_s)
    sampling = _sampling_fit(device, dtype, budget_s)
    head = OperatorFit(
        operator=operators.LM_HEAD,
        dtype=linear.dtype,
        compute_efficiency=linear.compute_efficiency,
        memory_efficiency=linear.memory_efficiency,
        overhead_s=linear.overhead_s,
    )
    shallow_s, deep_s = (_decode_step_s(depth, dtype) for depth in _DEPTHS)
    layer_s = max(deep_s - shallow_s, 0.0) / (_DEPTHS[1] - _DEPTHS[0])
    owned_s = operators.LINEARS_PER_LAYER * linear.overhead_s + attention.overhead_s
    glue = OperatorFit(operator=operators.ELEMENTWISE, dtype=linear.dtype, overhead_s=max(layer_s - owned_s, 0.0))
    # The glue of a layer is timed as a whole; storing keys is within it.
    write = OperatorFit(operator=operators.KV_WRITE, dtype=linear.dtype)
    around_s = shallow_s - _DEPTHS[0] * layer_s - head.overhead_s - sampling.overhead_s
    step = OperatorFit(operator=operators.STEP, dtype=linear.dtype, overhead_s=max(around_s, 0.0))
    return linear, write, attention, glue, head, sampling, step


def _linear_fit(device: Device, dtype: torch.dtype, budget_s: float) -> OperatorFit:
    def timed(layers: nn.Module, size: tuple[int, int], rows: int) -> Timed:
        x, num_weights = torch.randn(rows, size[0]).to(dtype), size[0] * size[1]
        work = Work(2.0 * rows * num_weights, float(num_weights * dtype.itemsize))
        return Timed(work, _best_s(lambda: layers(x), budget_s))

    small, large = (_prepared_linear(size, dtype) for size in (_TINY_LINEAR, _LINEAR_SIZE))
    tiny, reading = timed(small, _TINY_LINEAR, 1), timed(large, _LINEAR_SIZE, 1)
    computing = timed(large, _LINEAR_SIZE, _MANY_ROWS)
    return operator_fit(operators.LINEAR, _name(dtype), device, tiny.seconds, reading, computing)


def _prepared_linear(size: tuple[int, int], dtype: torch.dtype) -> nn.Module:
    """Return a linear layer as the engine prepares it; its weights are all alike, as no time depends on them."""
    linear = nn.Linear(*size, bias=False, device="meta", dtype=dtype).to_empty(device="cpu")
    linear.weight.fill_(0.01)
    return _pack_linears(nn.Sequential(linear))


def _pack_linears(module: nn.Module) -> nn.Module:
    """Repack every linear layer, in place, without seeking the row tile: that takes seconds and changes no time."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                kind = PackedLinear if can_pack(child.weight.device, child.weight.dtype) else TiledLinear
                setattr(parent, name, kind(child, 1))
    return module


def _attention_fit(device: Device, dtype: torch.dtype, budget_s: float) -> OperatorFit:
    shape = KVShape(num_layers=1, num_kv_heads=_HEADS, head_dim=HEAD_DIM, block_size=_BLOCK, dtype=dtype)
    store = PagedKVStore(shape, ceil_div(_LONG_CONTEXT, _BLOCK), torch.device("cpu"))
    spec = AttentionSpec(layer=0, num_heads=_HEADS, num_kv_heads=_HEADS, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5)
    model = model_shape(_decoder_config(1), dtype)

    def timed(new: int, context: int) -> Timed:
        kv = PagedStepKV(
            store, plan_step((sequence_work(new, context, _BLOCK),), _BLOCK, store.padding_block, store.device)
        )
        q, k, v = torch.randn(3, new, _HEADS, HEAD_DIM).to(dtype)
        seconds = _best_s(lambda: kv.attend(spec, q, k, v), budget_s)
        return Timed(attention_work(StepShape.of((new, context)), model), seconds)

    tiny, reading, computing = timed(1, _SHORT_CONTEXT), timed(1, _LONG_CONTEXT), timed(_MANY_ROWS, _MANY_ROWS)
    return operator_fit(operators.ATTENTION, _name(dtype), device, tiny.seconds, reading, computing)


def _sampling_fit(device: Device, dtype: torch.dtype, budget_s: float) -> OperatorFit:
    sampler, sequences = Sampler(), [sequence_work(1, 1, _BLOCK).sequence]

    def timed(vocab_size: int) -> Timed:
        logits = torch.randn(1, vocab_size)
        model = ModelShape(
            num_layer_params=1, hidden_size=1, vocab_size=vocab_size, num_heads=1, num_kv_heads=1, head_dim=1,
            windows=(None,),
        )  # fmt: skip
        work = operators.sampling_work(StepShape.of((1, 1)), model)
        return Timed(work, _best_s(lambda: sampler.sample(logits, sequences), budget_s))

    large = timed(_VOCABULARY)
    return operator_fit(operators.SAMPLING, _name(dtype), device, timed(_TINY_VOCABULARY).seconds, large, large)


def _decode_step_s(depth: int, dtype: torch.dtype) -> float:
    """Return the shortest time of a decode step of a small decoder, the engine's loop around it included."""
    config = _decoder_config(depth)
    decoder = Decoder(config).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    _pack_linears(decoder)
    attention = config.layers[0].attention
    shape = KVShape(
        num_layers=depth, num_kv_heads=attention.num_kv_heads, head_dim=attention.head_dim, block_size=_BLOCK,
        dtype=dtype,
    )  # fmt: skip
    runner = ModelRunner(decoder, PagedKVStore(shape, 8, torch.device("cpu")), Sampler())
    return decode_step_s(runner, config.vocab_size)


def _decoder_config(depth: int) -> ModelConfig:
    """Return a Llama of ``depth`` small layers; its attention is as wide as the one timed alone."""
    return small_llama(
        depth, hidden_size=64, feed_forward_size=64, num_heads=_HEADS, num_kv_heads=_HEADS,
        vocab_size=_TINY_VOCABULARY,
    )  # fmt: skip


def _best_s(call: Callable[[], object], budget_s: float) -> float:
    return best_of(call, budget_s).best_s


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
