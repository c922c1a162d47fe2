"""``/v1/models``."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class ModelCard(TypedDict):
    """One model; ``state`` is ours: idle, loading, ready or failed."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None
    state: str


class ModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]
