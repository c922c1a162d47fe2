"""Scaling policies: how many replicas there shall be. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.registry import make_registered
from steelyard.policies.scale.expected_cost import make_expected_cost
from steelyard.policies.scale.reactive import make_reactive
from steelyard.policies.scale.types import ScalePolicy

SCALE_POLICIES: dict[str, Callable[..., ScalePolicy]] = {
    "expected_cost": make_expected_cost,
    "reactive": make_reactive,
}


def make_scale_policy(name: str, **options: Any) -> ScalePolicy:
    """Return the scaling policy registered under ``name``.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(SCALE_POLICIES, name, options, field="scale_policy")
