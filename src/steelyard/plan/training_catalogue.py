"""Clusters, models and efficiencies known by name, from ``training.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from steelyard.core.names import pick
from steelyard.plan.training import LinkTier, TrainingCluster, TrainingEfficiency, TrainingModel


def find_training_cluster(name: str) -> tuple[TrainingCluster, TrainingEfficiency]:
    """Return a cluster and what frameworks reach on it.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    entry = dict(pick(_tables()["clusters"], name, field="cluster"))
    del entry["description"]
    efficiency = TrainingEfficiency(**_tables()["efficiencies"][entry.pop("efficiency")])
    links = tuple(LinkTier(**link) for link in entry.pop("links"))
    return TrainingCluster(name=name.casefold(), links=links, **entry), efficiency


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
