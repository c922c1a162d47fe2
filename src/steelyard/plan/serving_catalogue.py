"""Devices and decoders that the serving planners know by name, from ``serving.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from steelyard.cost.roofline import ModelShape
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate
from steelyard.plan.names import pick

DTYPE = "float16"
_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingDevice:
    """A device and what stands around it.

    Attributes:
        host_bytes_per_s: of a copy to host memory, one way.
        link_bytes_per_s: to the devices beside it, one way; ``None`` if there is no such link.
        price_per_hour: in dollars; ``None`` if not known.
    """

    device: Device
    host_bytes_per_s: float
    link_bytes_per_s: float | None = None
    price_per_hour: float | None = None

    @property
    def name(self) -> str:
        """The device's name."""
        return self.device.name

    @property
    def memory_bytes(self) -> int:
        """Capacity of the device's memory."""
        return self.device.memory[0].capacity_bytes


def find_serving_device(name: str) -> ServingDevice:
    """Return a device, with its float16 rate.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    entry = pick(_tables()["devices"], name, field="device")
    tier = MemoryTier(
        name="HBM", capacity_bytes=int(entry["memory_bytes"]), bandwidth_bytes_per_s=entry["memory_bytes_per_s"]
    )
    peak = PeakRate(dtype=DTYPE, flop_per_s=entry["flop_per_s"])
    return ServingDevice(
        device=Device(name=name.casefold(), kind=DeviceKind.GPU, memory=(tier,), peaks=(peak,)),
        host_bytes_per_s=entry["host_bytes_per_s"],
        link_bytes_per_s=entry.get("link_bytes_per_s"),
        price_per_hour=entry.get("price_per_hour"),
    )


def find_serving_model(name: str) -> ModelShape:
    """Return a dense decoder with float16 weights and KV cache.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    entry = pick(_tables()["models"], name, field="model")
    hidden, head_dim = entry["hidden"], entry["head_dim"]
    attention = 2 * hidden * head_dim * (entry["heads"] + entry["kv_heads"])
    return ModelShape(
        num_layer_params=entry["layers"] * (attention + 3 * hidden * entry["feed_forward"]),
        hidden_size=hidden,
        vocab_size=entry["vocabulary"],
        num_heads=entry["heads"],
        num_kv_heads=entry["kv_heads"],
        head_dim=head_dim,
        windows=(None,) * entry["layers"],
        weight_bytes=_BYTES,
        kv_bytes=_BYTES,
        dtype=DTYPE,
        feed_forward_size=entry["feed_forward"],
    )


def weights_bytes(model: ModelShape) -> float:
    """Return what the layers, the embedding and the output projection take in memory."""
    return (model.num_layer_params + 2 * model.hidden_size * model.vocab_size) * model.weight_bytes


def kv_token_bytes(model: ModelShape) -> float:
    """Return what one token's keys and values of all layers take."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.kv_bytes


def serving_devices() -> tuple[str, ...]:
    """Return the names of all devices."""
    return tuple(_tables()["devices"])


def serving_models() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(_tables()["models"])


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("steelyard.plan").joinpath("serving.toml").read_text(encoding="utf-8"))
