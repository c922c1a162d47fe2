"""Nobody lends: every instance lives on its own memory, as engines without a pool do."""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.core.kv import Loan
from steelyard.policies.lend.types import InstanceView, LendPolicy


def lend_nothing(instances: Sequence[InstanceView]) -> tuple[Loan, ...]:
    """See :class:`~steelyard.policies.lend.types.LendPolicy`."""
    return ()


def make_none() -> LendPolicy:
    """Return :func:`lend_nothing`; it has no parameters."""
    return lend_nothing
