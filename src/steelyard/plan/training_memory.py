"""Bytes that the fullest device of a training run holds: :func:`training_memory`.

Activations by the formulas of Korthikanti et al. (arXiv:2205.05198, tables 2 and equations 1 to 5); weights, gradients
and Adam's states as mixed precision keeps them. Left out: fragmentation, communication buffers, workspaces.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.plan.training import Recompute, TrainingLayout, TrainingModel

WEIGHT_BYTES = 2
GRADIENT_BYTES = 4
OPTIMISER_BYTES = 12  # a float32 copy and Adam's two moments


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on the fullest device, by what they hold."""

    weights: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimiser + self.activations


def training_memory(model: TrainingModel, layout: TrainingLayout, *, num_microbatches: int) -> TrainingMemory:
    """Return what the device with the most layers and microbatches in flight, the first stage's, holds."""
    held = params_per_gpu(model, layout)
    shards = [layout.dp if layout.zero_stage >= stage else 1 for stage in (3, 2, 1)]
    in_flight = activation_bytes(model, layout, num_microbatches=num_microbatches)
    working = layer_activation_bytes(model, layout, Recompute.NONE) if layout.recompute is Recompute.FULL else 0.0
    return TrainingMemory(
        weights=held * WEIGHT_BYTES / shards[0],
        gradients=held * GRADIENT_BYTES / shards[1],
        optimiser=held * OPTIMISER_BYTES / shards[2],
        activations=in_flight + max(working, head_bytes(model, layout) if layout.pp == 1 else 0.0),
    )


def params_per_gpu(model: TrainingModel, layout: TrainingLayout) -> float:
    """Return the weights of the first stage's rank: its layers and the embedding."""
    layers = model.num_layers / layout.pp * model.num_layer_params
    return (layers + (model.vocab_size + model.sequence_tokens) * model.hidden_size) / layout.tp


def activation_bytes(model: TrainingModel, layout: TrainingLayout, *, num_microbatches: int) -> float:
    """Return the activations of all microbatches that the first stage has in flight.

    1F1B keeps ``pp`` of them; interleaving 1 + (pp − 1)/(pp·v) times as many.
    """
    per_microbatch = model.num_layers / layout.pp * layer_activation_bytes(model, layout, layout.recompute)
    interleaved = 1 + (layout.pp - 1) / (layout.pp * layout.interleave) if layout.interleave > 1 else 1.0
    return per_microbatch * min(float(num_microbatches), layout.pp * interleaved)


def layer_activation_bytes(model: TrainingModel, layout: TrainingLayout, recompute: Recompute) -> float:
    """Return the activations of one layer and microbatch that the backward pass needs."""
    unit = float(model.sequence_tokens * layout.microbatch * model.hidden_size)
    if recompute is Recompute.FULL:
        return 2 * unit
    split = 8 + 4 * model.feed_forward / model.hidden_size  # queries, keys, values, their sum; around the GeLU
    kept = 10 / (layout.tp if layout.sequence_parallel else 1) + split / layout.tp
    if recompute is Recompute.NONE and not layout.flash_attention:
        kept += 5 * model.num_heads * model.sequence_tokens / (model.hidden_size * layout.tp)
    return unit * kept


def head_bytes(model: TrainingModel, layout: TrainingLayout) -> float:
    """Return what the output layer keeps: its input, and the logits in float32."""
    rows = model.sequence_tokens * layout.microbatch
    return 4.0 * rows * (model.hidden_size + model.vocab_size) / layout.tp
