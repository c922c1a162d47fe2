"""Power-capping policies: how fast servers may run under a shared budget. All pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.cap.thresholds import make_no_cap, make_one_threshold_all, make_one_threshold_low, make_polca
from steelyard.policies.cap.types import CapPolicy
from steelyard.policies.registry import make_registered

CAP_POLICIES: dict[str, Callable[..., CapPolicy]] = {
    "none": make_no_cap,
    "one_threshold_all": make_one_threshold_all,
    "one_threshold_low": make_one_threshold_low,
    "polca": make_polca,
}


def make_cap_policy(name: str, **options: Any) -> CapPolicy:
    """Return the policy registered under ``name``.

    Args:
        name: a key of :data:`CAP_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(CAP_POLICIES, name, options, "cap_policy")
