"""Log-probabilities under the model itself: log-softmax of raw logits, before temperature, penalties and filters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard.core.request import SampledToken, TokenLogprob
from steelyard.engine.logits import (
    CHUNK_LOGITS,
    check_model_output,
    kth_largest,
    likeliest,
    rank_kept,
    weigh,
    weight_bits,
)


@torch.inference_mode()
def prompt_logprobs(logits: Tensor, target_token_ids: Sequence[int], num_top: int) -> list[SampledToken]:
    """Return how likely the model found each known next token, one entry per row.

    Args:
        logits: ``[rows, vocab]`` float32, raw; row i predicts ``target_token_ids[i]``.
        target_token_ids: one per row.
        num_top: likeliest tokens to list beside each target, 0 or more; at most the vocabulary is listed.

    Raises:
        ResourceError: if a row holds NaN or +∞, or only −∞.
    """
    if not target_token_ids:
        return []
    check_model_output(likeliest(logits)[0], ["prompt_logprobs"] * len(logits))
    return token_logprobs(logits, target_token_ids, [num_top] * len(logits))


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[SampledToken]:
    """Return each row's token with its log-probability, rank and likeliest alternatives.

    A rank is 1 + the number of strictly likelier tokens. Alternatives come likeliest first, the lower id first among
    equals. An entry depends on its own row alone, to the bit.

    Args:
        logits: ``[rows, vocab]`` float32, raw and finite but for −∞.
        token_ids: one per row.
        num_top: alternatives wanted, one number per row.
    """
    found: list[SampledToken] = []
    step = max(1, CHUNK_LOGITS // logits.shape[1])
    for start in range(0, len(token_ids), step):
        rows = slice(start, start + step)
        found += _chunk_logprobs(logits[rows], token_ids[rows], num_top[rows])
    return found


def _chunk_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[SampledToken]:
    normalisers = _log_normalisers(logits)
    targets = logits.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None])
    ranks = ((logits > targets).sum(dim=-1) + 1).tolist()
    values: list[float] = targets[:, 0].tolist()
    tops = _top_entries(logits, num_top, normalisers)
    return [
        SampledToken(token, TokenLogprob(token, value - normaliser, rank), top)
        for token, value, normaliser, rank, top in zip(token_ids, values, normalisers, ranks, tops, strict=True)
    ]


def _log_normalisers(logits: Tensor) -> list[float]:
    """Return log Σ exp(logit) of each row, within 1e-9, from integer weights so that it keeps its bits in any batch."""
    peaks, _ = likeliest(logits)
    bits = weight_bits(logits.shape[1])
    ones = torch.ones(len(logits), dtype=torch.float64, device=logits.device)
    totals = weigh(logits, peaks, ones, bits).sum(dim=-1).tolist()
    return [peak + math.log(total / (1 << bits)) for peak, total in zip(peaks.tolist(), totals, strict=True)]


def _top_entries(
    logits: Tensor, num_top: Sequence[int], normalisers: Sequence[float]
) -> list[tuple[TokenLogprob, ...]]:
    widest = min(max(num_top), logits.shape[1])
    if widest == 0:
        return [()] * len(num_top)
    values, ids = rank_kept(logits, logits >= kth_largest(logits, [widest] * len(num_top)))
    ranked = zip(values[:, :widest].tolist(), ids[:, :widest].tolist(), num_top, normalisers, strict=True)
    return [
        tuple(
            TokenLogprob(token, value - normaliser, row_values.index(value) + 1)
            for token, value in zip(row_ids[:wanted], row_values[:wanted], strict=True)
        )
        for row_values, row_ids, wanted, normaliser in ranked
    ]
