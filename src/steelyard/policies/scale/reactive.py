"""As many replicas as the highest demand since the last decision needs, and some more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from steelyard.policies.registry import check_number
from steelyard.policies.scale.types import Limits, ScalePolicy, ScaleView

DEFAULT_UTILISATION = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactiveConfig:
    """Parameters of :class:`ReactivePolicy`.

    Attributes:
        utilisation: that the replicas shall have if the demand stays, above 0.
        limits: on the number of replicas.
    """

    utilisation: float = DEFAULT_UTILISATION
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_number("utilisation", self.utilisation, above=0)


@final
class ReactivePolicy:
    """Follow demand; where none was seen, leave things as they are."""

    def __init__(self, config: ReactiveConfig) -> None:
        self._config = config

    def decide(self, view: ScaleView) -> int:
        """See :class:`~steelyard.policies.scale.types.ScalePolicy`."""
        if not view.demands:
            return self._config.limits.within(view.num_replicas)
        return self._config.limits.within(math.ceil(max(view.demands) / self._config.utilisation))


def make_reactive(
    *, utilisation: float = DEFAULT_UTILISATION, min_replicas: int = 1, max_replicas: int | None = None
) -> ScalePolicy:
    """Return a :class:`ReactivePolicy`; the options are :class:`ReactiveConfig`'s."""
    limits = Limits(least=min_replicas, most=max_replicas)
    return ReactivePolicy(ReactiveConfig(utilisation=utilisation, limits=limits))
