"""Clusters, models and efficiencies known by name, from ``training.toml`` and the hardware catalogue."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from steelyard.core.names import pick
from steelyard.hardware.catalogue.read import find_device, find_link, find_machine
from steelyard.hardware.catalogue.types import CatalogueMachine
from steelyard.plan.training import LinkTier, TrainingCluster, TrainingEfficiency, TrainingModel

_FORMATS = ("bfloat16", "float16")


def find_training_cluster(name: str) -> tuple[TrainingCluster, TrainingEfficiency]:
    """Return a cluster and what frameworks reach on it.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    entry = pick(_tables()["clusters"], name, field="cluster")
    cluster = cluster_of(name.casefold(), find_machine(entry["machine"]), entry.get("links", ()))
    return cluster, TrainingEfficiency(**_tables()["efficiencies"][entry["efficiency"]])


def cluster_of(name: str, machine: CatalogueMachine, links: Sequence[Mapping[str, Any]]) -> TrainingCluster:
    """Return a cluster of like machines.

    Args:
        name: for tables.
        machine: of devices that compute in bfloat16 or float16, with a network.
        links: inside it, ``max_ranks`` and ``link`` of each; none for the one that joins all its devices.
    """
    found = find_device(machine.device)
    device, own = found.device, machine.peer_link or found.peer_link
    network, adapters = find_link(machine.network or ""), machine.num_networks or 0
    tiers = links or [{"max_ranks": machine.num_devices, "link": own}]
    return TrainingCluster(
        name=name,
        flop_per_s=max(peak.flop_per_s for peak in device.peaks if peak.dtype in _FORMATS),
        memory_bytes=device.memory[0].capacity_bytes,
        memory_bytes_per_s=device.bandwidth_bytes_per_s,
        links=tuple(
            LinkTier(max_ranks=one["max_ranks"], bytes_per_s=find_link(one["link"]).bandwidth_bytes_per_s)
            for one in tiers
        ),
        network_bytes_per_s=adapters * network.bandwidth_bytes_per_s / machine.num_devices,
    )


def find_training_model(name: str) -> TrainingModel:
    """Return a model, with sequences of 2048 tokens.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    return TrainingModel(name=name.casefold(), **pick(_tables()["models"], name, field="model"))


def training_models() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(_tables()["models"])


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("steelyard.plan").joinpath("training.toml").read_text(encoding="utf-8"))
