"""Devices of the hardware catalogue as serving planners need them, and decoders by name, from ``serving.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from steelyard.core.errors import InputError
from steelyard.core.names import pick
from steelyard.cost.roofline import ModelShape
from steelyard.hardware.catalogue.read import all_devices, find_device, find_link
from steelyard.hardware.device import Device

DTYPE = "float16"
_BYTES = 2.0
_HOST_SHARE = 0.64
"""Of the host link's bandwidth that a copy reaches: about 20 GB/s over PCIe 4.0 x16."""


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
    """Return a device that computes in float16 and has a link to its host.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    found = find_device(name)
    if not _serves(name):
        raise InputError(f"{name!r} has no float16 rate or host link", field="device", remedy=f"There are: {_names()}")
    return ServingDevice(
        device=found.device,
        host_bytes_per_s=_HOST_SHARE * find_link(found.host_link or "").bandwidth_bytes_per_s,
        link_bytes_per_s=None if found.peer_link is None else find_link(found.peer_link).bandwidth_bytes_per_s,
        price_per_hour=found.dollars_per_hour,
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


def context_tokens(name: str) -> int:
    """Return the longest context of a decoder, in tokens.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    longest: int = pick(_tables()["models"], name, field="model")["context"]
    return longest


def weights_bytes(model: ModelShape) -> float:
    """Return what the layers, the embedding and the output projection take in memory."""
    return (model.num_layer_params + 2 * model.hidden_size * model.vocab_size) * model.weight_bytes


def kv_token_bytes(model: ModelShape) -> float:
    """Return what one token's keys and values of all layers take."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.kv_bytes


def serving_devices() -> tuple[str, ...]:
    """Return the names of all devices that :func:`find_serving_device` takes."""
    return tuple(name for name in all_devices() if _serves(name))


def serving_models() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(_tables()["models"])


def _serves(name: str) -> bool:
    found = find_device(name)
    return found.host_link is not None and any(peak.dtype == DTYPE for peak in found.device.peaks)


def _names() -> str:
    return ", ".join(serving_devices())


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("steelyard.plan").joinpath("serving.toml").read_text(encoding="utf-8"))
