"""What to make of a prompt that is not to be continued: :class:`PoolingParams`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from steelyard.core.params import SamplingParams


class PoolingKind(Enum):
    """Which hidden states stand for a whole text; the values are the field's usual words."""

    MEAN = "mean"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingParams:
    """How a prompt becomes one vector of hidden states (those after the final norm).

    Attributes:
        kind: the mean over all tokens, or the last token's.
        normalize: scale it to length one.
    """

    kind: PoolingKind = PoolingKind.MEAN
    normalize: bool = True


NO_SAMPLING = SamplingParams(max_tokens=1)
"""The sampling parameters of requests that are pooled: nothing is sampled, and no room is kept for an answer."""
