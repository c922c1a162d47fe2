"""What a step of a model should cost on a device: the bridge from the engine's batches to the cost model.

It makes a :data:`~steelyard.engine.executor.StepCost` for the modelled executor, so that any run can be predicted by
running it again in virtual time.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from steelyard.core.batch import Batch
from steelyard.core.clock import Stopwatch
from steelyard.cost.roofline import ModelShape, SequenceShape, StepShape, step_cost
from steelyard.engine.executor import StepCost
from steelyard.hardware.device import Device, PeakRate
from steelyard.hardware.this_machine import measure_quickly
from steelyard.kernels.linear import prepare_linears
from steelyard.models.config import MlpConfig, ModelConfig

_RATE_ROUNDS = 100


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
    )


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

    def seconds(batch: Batch) -> float:
        shapes = tuple(SequenceShape(work.num_tokens, work.end) for work in batch.works)
        return step_cost(StepShape(shapes), model, device, overhead_s=overhead_s).seconds

    return seconds


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


def measured_device(dtype: torch.dtype) -> Device:
    """Return this machine's CPU with bandwidth and matrix rate measured now, the rate by the engine's own kernel.

    Takes about a second; run it while the machine is quiet.
    """
    device = measure_quickly()
    rate = PeakRate(dtype=str(dtype).removeprefix("torch."), flop_per_s=matmul_flop_per_s(dtype))
    return replace(device, peaks=(rate, *(peak for peak in device.peaks if peak.dtype != rate.dtype)))


def matmul_flop_per_s(dtype: torch.dtype) -> float:
    """Return the best rate that a prepared linear layer reached in a few rounds on this CPU."""
    rows, width = 512, 1024
    layer = nn.Sequential(nn.Linear(width, width, bias=False, dtype=dtype))
    prepare_linears(layer)
    x, best_s = torch.randn(rows, width, dtype=dtype), float("inf")
    with torch.inference_mode():
        for _ in range(_RATE_ROUNDS):
            with Stopwatch() as watch:
                layer(x)
            best_s = min(best_s, watch.elapsed_s)
    return 2.0 * rows * width * width / best_s
