"""Attention without a cache: whole sequences at once, the plain form that everything else is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from steelyard.kernels.attention import AttentionSpec, attention_reference


class DenseKV:
    """A :class:`~steelyard.models.contract.KVAccess` for packed whole sequences; nothing outlives the call.

    Args:
        lengths: tokens of each packed sequence, in order; their sum is the packed length.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._lengths = list(lengths)

    def attend(self, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.KVAccess.attend`; every sequence starts at position 0."""
        parts = zip(*(torch.split(x, self._lengths) for x in (q, k, v)), strict=True)
        return torch.cat([attention_reference(spec, *part) for part in parts])
