"""What a loaded model's steps are priced by: its shape as it is held in memory, its device, and the calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from steelyard.cost.calibration import IDEAL, Calibration
from steelyard.cost.operators import ATTENTION, LINEAR, LM_HEAD, operator_costs, total_s
from steelyard.cost.profile import Profile
from steelyard.cost.roofline import ModelShape, StepShape
from steelyard.engine.build import Parts
from steelyard.engine.prediction import model_shape, num_layer_weights, quantised_shape
from steelyard.hardware.device import Device
from steelyard.models.quantised import QuantisedEmbedding, QuantisedLinear

# What the rest moves is a guess, and mostly stays in caches.
_FROM_MEMORY = (LINEAR, ATTENTION, LM_HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrice:
    """What a step should cost.

    Attributes:
        predicted_s: by the calibration; ``None`` without one.
        limit_s: by the roofline.
        num_bytes: weights, keys and values that it reads and writes.
        flop: of its matrices and its attention.
    """

    predicted_s: float | None
    limit_s: float
    num_bytes: float
    flop: float


@dataclass(frozen=True, slots=True)
class Pricing:
    """What steps are priced by; without a calibration of the model's number format only the limit is known."""

    model: ModelShape
    device: Device
    calibration: Calibration | None

    def price(self, step: StepShape) -> StepPrice:
        """Return what ``step`` should cost.

        Raises:
            InputError: if the device's rate in the model's number format, or its bandwidth, is not known.
        """
        costs = operator_costs(self.model, step, self.device, self.calibration or IDEAL)
        predicted_s, limit_s = total_s(costs)
        moved = [cost for cost in costs if cost.name in _FROM_MEMORY]
        return StepPrice(
            predicted_s=None if self.calibration is None else predicted_s,
            limit_s=limit_s,
            num_bytes=sum(cost.num_bytes for cost in moved),
            flop=sum(cost.flop for cost in moved),
        )


def pricing_of(parts: Parts, profile: Profile) -> Pricing:
    """Return what a loaded model's steps are priced by; a calibration with other threads is none of it.

    Raises:
        InputError: if the profile knows nothing of the model's device.
    """
    device, model = str(next(parts.model.module.parameters()).device), held_shape(parts)
    calibration = profile.calibration if device == "cpu" else None
    if calibration is not None:
        alike = calibration.num_threads in (None, torch.get_num_threads())
        calibration = calibration if alike and calibration.covers(model.dtype) else None
    return Pricing(model, profile.machine.device(device), calibration)


def held_shape(parts: Parts) -> ModelShape:
    """Return what decides a loaded model's cost, in the formats that its weights and its KV cache are held in."""
    module, config = parts.model.module, parts.model.config
    kv_bytes = parts.runner.kv_shape.dtype.itemsize
    if not isinstance(module.embed, QuantisedEmbedding):
        return replace(model_shape(config, parts.dtype), kv_bytes=kv_bytes)
    packed = sum(one.packed.num_bytes for one in module.layers.modules() if isinstance(one, QuantisedLinear))
    head = module.lm_head
    num_head = config.hidden_size * config.vocab_size
    head_bytes = head.packed.num_bytes / num_head if isinstance(head, QuantisedLinear) else None
    return quantised_shape(config, packed / num_layer_weights(config), kv_bytes, head_bytes)
