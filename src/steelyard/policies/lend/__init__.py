"""Lending policies: which engine lends KV blocks to which. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.lend.greedy import make_greedy
from steelyard.policies.lend.none import make_none
from steelyard.policies.lend.types import LendPolicy
from steelyard.policies.registry import make_registered

LEND_POLICIES: dict[str, Callable[..., LendPolicy]] = {
    "greedy": make_greedy,
    "none": make_none,
}


def make_lend_policy(name: str, **options: Any) -> LendPolicy:
    """Return the policy registered under ``name``.

    Args:
        name: a key of :data:`LEND_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(LEND_POLICIES, name, options, "lend_policy")
