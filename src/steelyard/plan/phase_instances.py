"""Instances that phases may be placed on: by published profiles where there are any, else by the roofline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum

from steelyard.core.errors import InputError
from steelyard.cost.fitted import distserve_kv_tokens, distserve_steps
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.roofline import ModelShape
from steelyard.hardware.catalogue.types import CatalogueDevice
from steelyard.plan.phases import Instance
from steelyard.plan.serving_catalogue import kv_token_bytes, weights_bytes

MEMORY_SHARE = 0.9
"""Of a device's memory, for weights and KV cache."""

PROFILED_DEVICE = "a100-80gb"
_STAGES = (1, 2)
_SIZES = {"opt-13b": (40, 5120), "opt-66b": (64, 9216)}
_PROFILED_DEGREES = {
    "opt-13b": ((1, 1), (2, 1), (4, 1)),
    "opt-66b": ((2, 1), (2, 2), (3, 1), (4, 1), (4, 2), (8, 1)),
}
PROFILED_MODELS = tuple(_SIZES)
PROFILED_TOKENS = 2048
"""Longest context of the profiled models."""


class Scarce(Enum):
    """What an instance's price counts."""

    DEVICES = "gpu"
    DOLLARS = "dollar"
    WATTS = "watt"


def profiled_instance(model: str, engine: str, tp: int, pp: int = 1) -> Instance:
    """Return an instance of A100s as DistServe's authors profiled it, its price the number of devices.

    Args:
        model: one of :data:`PROFILED_MODELS`.
        engine: ``distserve`` or ``vllm``, whose kernels were measured.
        tp: tensor-parallel degree.
        pp: pipeline-parallel degree.

    Raises:
        InputError: if nobody profiled it; it lists what was.
    """
    return Instance(
        name=degrees_text(tp, pp),
        steps=distserve_steps(model, engine, tp),
        num_kv_tokens=distserve_kv_tokens(model, tp, pp),
        stages=pp,
        num_devices=tp * pp,
        price=tp * pp,
    )


def profiled_instances(model: str, price: float) -> list[Instance]:
    """Return all instances of up to eight devices with DistServe's kernels.

    Args:
        model: one of :data:`PROFILED_MODELS`.
        price: of a device.

    Raises:
        InputError: if the model was not profiled.
    """
    if model not in _PROFILED_DEGREES:
        raise InputError(f"{model} was not profiled", field="model", remedy=f"Use {', '.join(PROFILED_MODELS)}")
    found = [profiled_instance(model, "distserve", tp, pp) for tp, pp in _PROFILED_DEGREES[model]]
    return [replace(one, price=price * one.num_devices) for one in found]


def profiled_kv_bytes(model: str) -> int:
    """Return what one token's keys and values of all layers take, in float16; one of :data:`PROFILED_MODELS`."""
    layers, hidden = _SIZES[model]
    return 2 * layers * hidden * 2


def modelled_instances(
    model: ModelShape, device: CatalogueDevice, max_devices: int, min_kv_tokens: int, price: float
) -> list[Instance]:
    """Return the instances of like devices that hold a model and a context, by the roofline; perhaps none.

    Degrees are powers of two that divide the model's heads and layers; there are two stages at most.

    Args:
        model: a dense decoder.
        device: of all.
        max_devices: of an instance.
        min_kv_tokens: that the cache of each pipeline stage's share of batches has room for.
        price: of a device.
    """
    return [
        Instance(
            name=f"{device.name} {degrees_text(tp, pp)}",
            steps=ParallelSteps(model=model, device=device, tp=tp, pp=pp),
            num_kv_tokens=room,
            stages=pp,
            num_devices=tp * pp,
            price=tp * pp * price,
        )
        for tp, pp in _degrees(model, max_devices)
        if (room := kv_room(model, device, tp * pp)) >= pp * min_kv_tokens
    ]


def kv_room(model: ModelShape, device: CatalogueDevice, num_devices: int) -> int:
    """Return the tokens whose keys and values fit beside the weights; 0 if the weights do not fit."""
    memory = num_devices * device.device.memory[0].capacity_bytes
    return max(0, int((MEMORY_SHARE * memory - weights_bytes(model)) // kv_token_bytes(model)))


def device_price(device: CatalogueDevice, scarce: Scarce) -> float:
    """Return what one device costs of what is scarce: 1, dollars per hour, or watts at its peak.

    Raises:
        InputError: if the catalogue does not know it.
    """
    prices = {Scarce.DEVICES: 1.0, Scarce.DOLLARS: device.dollars_per_hour, Scarce.WATTS: device.peak_watts}
    price = prices[scarce]
    if price is None:
        problem = f"nothing is known of what {device.name} takes per {scarce.value}"
        raise InputError(problem, field="objective", remedy="Use --objective gpu, or another device")
    return price


def degrees_text(tp: int, pp: int) -> str:
    """Return degrees of parallelism for tables, e.g. ``TP4 PP2``."""
    return f"TP{tp}" if pp == 1 else f"TP{tp} PP{pp}"


def _degrees(model: ModelShape, max_devices: int) -> Iterator[tuple[int, int]]:
    """Yield the (tp, pp) of instances, the fewest devices first."""
    powers = [1 << n for n in range(max_devices.bit_length())]
    for devices in powers:
        for pp in _STAGES:
            tp = devices // pp
            if tp and model.num_heads % tp == 0 and model.num_layers % pp == 0:
                yield tp, pp
