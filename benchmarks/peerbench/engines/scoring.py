"""Log-probabilities from logits, for engines that give only those. Needs NumPy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def logprob(logits: np.ndarray, token: int) -> float:
    """Return the natural log-probability of ``token`` under ``logits`` ``[vocabulary]``."""
    largest = logits.max()
    return float(logits[token] - largest - np.log(np.exp(logits - largest).sum(dtype=np.float64)))


def total_logprob(rows: Iterable[np.ndarray], tokens: Iterable[int]) -> float:
    """Return the sum over rows of logits and the tokens that follow them."""
    return sum(logprob(row, token) for row, token in zip(rows, tokens, strict=True))
