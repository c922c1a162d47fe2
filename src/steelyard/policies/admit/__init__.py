"""Admission policies: whether a request may enter now. All of them pass the same conformance test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steelyard.policies.admit.concurrency import make_concurrency
from steelyard.policies.admit.rate import make_rate
from steelyard.policies.admit.room import make_room
from steelyard.policies.admit.types import AdmitPolicy
from steelyard.policies.registry import make_registered

ADMIT_POLICIES: dict[str, Callable[..., AdmitPolicy]] = {
    "concurrency": make_concurrency,
    "rate": make_rate,
    "room": make_room,
}


def make_admit_policy(name: str, **options: Any) -> AdmitPolicy:
    """Return the policy registered under ``name``; :class:`~steelyard.policies.admit.gate.Gate` makes several one.

    Args:
        name: a key of :data:`ADMIT_POLICIES`.
        options: the fields of that policy's config.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    return make_registered(ADMIT_POLICIES, name, options, "admit_policy")
