"""From the hidden states of a prompt's tokens to one vector, whatever the chunks in which they come.

A mean over chunks is a sum of sums, and a float's sum depends on the order of its additions; chunks depend on who else
is in the step. So each element is rounded to a multiple of 2^-24 first, an error below float32's own at one, and the
sums of such numbers in float64 are exact up to 2^29: a prompt's vector has the same bits in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard.core.errors import ResourceError
from steelyard.core.pooling import PoolingKind, PoolingParams

_GRID = float(1 << 24)


@torch.inference_mode()
def pool_rows(hidden: Tensor, kind: PoolingKind, *, reaches_end: bool) -> tuple[float, ...]:
    """Return what some of a prompt's tokens add to its vector (:attr:`.core.batch.StepOutput.pooled`).

    Args:
        hidden: ``[tokens, hidden_size]``, after the final norm.
        kind: how the prompt is pooled.
        reaches_end: the prompt's last token is among them, as the last.

    Raises:
        ResourceError: if an element is NaN or infinite.
    """
    if kind is PoolingKind.LAST:
        part = hidden[-1].double() if reaches_end else hidden.new_empty(0, dtype=torch.float64)
    else:
        part = hidden.double().mul_(_GRID).round_().sum(dim=0).div_(_GRID)
    if not bool(part.isfinite().all()):
        raise ResourceError(
            "the model returned NaN or infinite hidden states; most often float16 overflowed",
            field="pooling",
            remedy="Load the model with dtype bfloat16 or float32; if that does not help, its weights are damaged",
        )
    return tuple(part.tolist())


class PooledVector:
    """One prompt's vector as it grows.

    Args:
        params: how it is pooled.
        num_tokens: of the whole prompt.
    """

    def __init__(self, params: PoolingParams, num_tokens: int) -> None:
        self._params, self._num_tokens = params, num_tokens
        self._sum: tuple[float, ...] = ()

    def add(self, start: int, part: Sequence[float]) -> None:
        """Take what the tokens from ``start`` on add; a prompt that is computed anew begins again at 0."""
        goes_on = start > 0 and self._params.kind is PoolingKind.MEAN
        self._sum = tuple(a + b for a, b in zip(self._sum, part, strict=True)) if goes_on else tuple(part)

    def value(self) -> tuple[float, ...]:
        """Return the vector, ``[hidden_size]``, once all is added; only one of zeros is not scaled to length one."""
        count = self._num_tokens if self._params.kind is PoolingKind.MEAN else 1
        vector = tuple(x / count for x in self._sum)
        return unit_vector(vector) if self._params.normalize else vector


def unit_vector(vector: Sequence[float]) -> tuple[float, ...]:
    """Return ``vector`` scaled to length one, or as it is if it is all zeros."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return tuple(x / length for x in vector) if length else tuple(vector)
