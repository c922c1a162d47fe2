"""What a step of a model should cost on a device: the bridge from the engine's batches to the cost model.

It makes a :data:`~steelyard.engine.executor.StepCost` for the modelled executor, so that any run can be predicted by
running it again in virtual time.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import torch

from steelyard.core.batch import Batch, SequenceWork
from steelyard.core.clock import Stopwatch
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.cost.calibration import IDEAL, Calibration
from steelyard.cost.operators import operator_costs, total_s
from steelyard.cost.roofline import (
    ModelShape,
    SequenceShape,
    StepShape,
    Work,
    attention_work,
    linear_work,
    lm_head_work,
    step_cost,
)
from steelyard.engine.executor import StepCost
from steelyard.engine.model_runner import ModelRunner
from steelyard.hardware.device import Device, PeakRate
from steelyard.kernels.paged_attention import KEY_GROUP
from steelyard.models.config import LayerConfig, MlpConfig, ModelConfig

# The rate that quantised weights and activations are multiplied at.
QUANTISED_ARITHMETIC = "int8"
_DECODE_CONTEXT = 64
_PREFILL_TOKENS = 256
_CALIBRATION_ROUNDS = 9


def model_shape(config: ModelConfig, dtype: torch.dtype) -> ModelShape:
    """Return what of a model decides its cost, with weights and KV cache in ``dtype``."""
    attention = config.layers[0].attention
    return ModelShape(
        num_layer_params=sum(_active_params(config, index) for index in range(config.num_layers)),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        windows=tuple(layer.attention.window for layer in config.layers),
        weight_bytes=dtype.itemsize,
        kv_bytes=dtype.itemsize,
        dtype=str(dtype).removeprefix("torch."),
        feed_forward_size=_feed_forward_size(config.layers[0]),
    )


def quantised_shape(
    config: ModelConfig, bytes_per_weight: float, kv_bytes: int, head_bytes_per_weight: float | None = None
) -> ModelShape:
    """Return what decides the cost of a model whose weights stay quantised and meet 8-bit activations.

    Args:
        config: the model.
        bytes_per_weight: of the packed weights, scales included.
        kv_bytes: bytes per element of a key or value.
        head_bytes_per_weight: of the output projection; ``None`` for as the others.
    """
    return replace(
        model_shape(config, torch.float32),
        weight_bytes=bytes_per_weight,
        kv_bytes=kv_bytes,
        dtype=QUANTISED_ARITHMETIC,
        head_weight_bytes=head_bytes_per_weight,
        key_group=KEY_GROUP,
    )


def num_layer_weights(config: ModelConfig) -> int:
    """Return the matrix weights of all layers that a token passes."""
    return model_shape(config, torch.float32).num_layer_params


def num_weights(config: ModelConfig) -> int:
    """Return the matrix weights that a token passes, the output projection included, as the cost model counts them."""
    shape = model_shape(config, torch.float32)
    return shape.num_layer_params + shape.hidden_size * shape.vocab_size


def predicted_step_cost(
    config: ModelConfig, dtype: torch.dtype, device: Device, *, overhead_s: float = 0.0
) -> StepCost:
    """Return a function from a batch to the seconds that the roofline model expects of it.

    Args:
        config: the model.
        dtype: of weights, KV cache and arithmetic.
        device: with measured or published rates.
        overhead_s: fixed time per step.
    """
    model = model_shape(config, dtype)
    return lambda batch: step_cost(step_shape(batch), model, device, overhead_s=overhead_s).seconds


def operator_step_cost(model: ModelShape, device: Device, calibration: Calibration) -> StepCost:
    """Return a function from a batch to the seconds that a calibration expects of its operators together."""
    return lambda batch: total_s(operator_costs(model, step_shape(batch), device, calibration))[0]


def limit_step_cost(model: ModelShape, device: Device) -> StepCost:
    """Return a function from a batch to the least seconds that the roofline allows its operators together."""
    return lambda batch: total_s(operator_costs(model, step_shape(batch), device, IDEAL))[1]


def step_shape(batch: Batch) -> StepShape:
    """Return what of a batch decides its cost."""
    return StepShape(tuple(SequenceShape(work.num_tokens, work.end) for work in batch.works))


def _active_params(config: ModelConfig, index: int) -> int:
    """Return the matrix weights of one layer that every token passes; of a mixture, the experts it is sent to."""
    layer = config.layers[index]
    attention = layer.attention
    projections = config.hidden_size * (2 * attention.q_size + 2 * attention.kv_size)
    network = layer.feed_forward
    if isinstance(network, MlpConfig):
        return projections + config.hidden_size * network.size * (3 if network.gated else 2)
    sizes = network.top_k * network.size + (network.shared_size or 0)
    return projections + config.hidden_size * (3 * sizes + network.num_experts)


def _feed_forward_size(layer: LayerConfig) -> int:
    """Return the inner size of the networks that a token passes in one layer."""
    network = layer.feed_forward
    if isinstance(network, MlpConfig):
        return network.size
    return network.top_k * network.size + (network.shared_size or 0)


def calibrated_device(runner: ModelRunner, config: ModelConfig, dtype: torch.dtype, device: Device) -> Device:
    """Return ``device`` with the bandwidth and the matrix rate that two kinds of steps of this model reach now.

    One decode step gives the bandwidth (its bytes over its time), one prefill step the rate (its operations over its
    time). What a step costs besides is thereby spread over both, which flatters neither. Takes a second or two; writes
    to the first KV blocks, so nothing may be running.
    """
    model = model_shape(config, dtype)
    decode, prefill = SequenceShape(1, _DECODE_CONTEXT), SequenceShape(_PREFILL_TOKENS, _PREFILL_TOKENS)
    num_bytes = sum(work.num_bytes for work in _works(decode, model))
    flop = sum(work.flop for work in _works(prefill, model))
    rate = PeakRate(dtype=model.dtype, flop_per_s=flop / _step_s(runner, prefill))
    tier = replace(device.memory[0], bandwidth_bytes_per_s=num_bytes / _step_s(runner, decode))
    return replace(device, peaks=(rate,), memory=(tier, *device.memory[1:]))


def _works(shape: SequenceShape, model: ModelShape) -> tuple[Work, ...]:
    step = StepShape((shape,))
    return linear_work(step, model), attention_work(step, model), lm_head_work(step, model)


def _step_s(runner: ModelRunner, shape: SequenceShape) -> float:
    """Return the median seconds of a step in which one sequence does ``shape``."""
    sequence = Sequence(
        id=0,
        request_id="calibration",
        index=0,
        prompt=(0,) * shape.context_after,
        params=SamplingParams(temperature=0.0),
        seed=0,
        arrival_s=0.0,
    )
    blocks = tuple(range(ceil_div(shape.context_after, runner.block_size)))
    work = SequenceWork(sequence, shape.context_after - shape.num_new_tokens, shape.num_new_tokens, blocks)
    seconds = []
    for _ in range(1 + _CALIBRATION_ROUNDS):
        with Stopwatch() as watch:
            runner.run(Batch(0, (work,)))
        seconds.append(watch.elapsed_s)
    return median(seconds[1:])
