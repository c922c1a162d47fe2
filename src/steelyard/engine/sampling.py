"""Choosing each sequence's next token from its logits.

The order is vLLM's: logit_bias, constraint and min_tokens, penalties, temperature, min_p, top_k, top_p, draw. All that
sums probabilities does so in integers (:mod:`steelyard.engine.logits`), so a row's choice never depends on its
neighbours.

The draw inverts the cumulative distribution at a number that is a keyed hash of (seed, output position). A counter has
no state to lose, so preemption, recomputation and batching cannot change it; BLAKE2b has no structure that neighbouring
seeds or positions could show; it costs about a microsecond a row, where Gumbel noise would need a number per token.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence as TokenSequence
from steelyard.engine.logits import (
    CHUNK_LOGITS,
    LogitsAdjuster,
    check_choice_left,
    check_model_output,
    kth_largest,
    likeliest,
    rank_kept,
    weigh,
    weight_bits,
)
from steelyard.engine.logprobs import token_logprobs

_SMALL_TOP_K = 1024
_RANDOM_BITS = 64
_DOMAIN = b"steelyard draw"


class Sampler:
    """Chooses next tokens, each row by its own sequence's parameters.

    Args:
        eos_token_ids: end-of-sequence tokens: forbidden before min_tokens unless the request ignores them.
    """

    def __init__(self, eos_token_ids: Iterable[int] = ()) -> None:
        self._adjust = LogitsAdjuster(eos_token_ids)

    @torch.inference_mode()
    def sample(
        self, logits: Tensor, sequences: Sequence[TokenSequence], suppress: Mapping[int, Tensor] | None = None
    ) -> list[SampledToken]:
        """Return one token per row, a pure function of (logits row, sequence, suppress row) to the bit.

        Args:
            logits: ``[rows, vocab]`` float32, raw, on a device that has float64; not changed.
            sequences: one per row; the token drawn is the one for its output position ``num_output_tokens``.
            suppress: row → bool ``[vocab]``, true where a token must not be chosen: what a constraint forbids.

        Raises:
            ResourceError: if a row holds NaN or +∞, or only −∞.
            ParamsError: if every token of a row is forbidden.
        """
        assert logits.dtype == torch.float32
        assert len(logits) == len(sequences)
        names = [sequence.request_id for sequence in sequences]
        peaks, best = likeliest(logits)
        check_model_output(peaks, names)
        adjusted = self._adjust(logits, sequences, suppress)
        if adjusted is not logits:
            peaks, best = likeliest(adjusted)
            check_choice_left(peaks, names)
        tokens = _draw_all(adjusted, peaks, best.tolist(), sequences)
        return _with_logprobs(logits, tokens, sequences)

    def wants_only_likeliest(self, sequence: TokenSequence) -> bool:
        """Return whether of a sequence's next logits nothing counts but which is the largest."""
        params = sequence.params
        alone = params.is_greedy and params.logprobs is None and params.constraint is None
        return alone and self._adjust.leaves_alone(sequence)

    def take_likeliest(self, peaks: Tensor, tokens: Tensor, sequences: Sequence[TokenSequence]) -> list[SampledToken]:
        """Return what :meth:`sample` does for sequences of which :meth:`wants_only_likeliest` is true.

        Args:
            peaks: ``[rows]`` float32, each row's largest logit.
            tokens: ``[rows]`` int64, the lowest token that has it.
            sequences: one per row.

        Raises:
            ResourceError: if a peak is NaN or infinite.
        """
        check_model_output(peaks, [sequence.request_id for sequence in sequences])
        return [SampledToken(token) for token in tokens.tolist()]


def validate_against_vocab(params: SamplingParams, vocab_size: int) -> None:
    """Check what :class:`SamplingParams` alone cannot: token ids against the model's vocabulary.

    Raises:
        ParamsError: if ``logit_bias`` or ``stop_token_ids`` names a token outside ``0 … vocab_size − 1``, or if
            ``min_tokens`` with ``stop_token_ids`` would forbid the whole vocabulary.
    """
    for field, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
        outside = [token for token in ids if token >= vocab_size]
        if outside:
            problem = f"token {outside[0]} is outside the model's vocabulary of {vocab_size}"
            raise ParamsError(problem, field=field, remedy=f"Use token ids from 0 to {vocab_size - 1}")
    if params.min_tokens and len(set(params.stop_token_ids)) >= vocab_size:
        raise ParamsError(
            "together with min_tokens it forbids every token", field="stop_token_ids", remedy="List fewer tokens"
        )


def random_bits(seed: int, position: int) -> int:
    """Return 64 uniform random bits, a pure function of a sequence's ``seed`` (mod 2^64) and the output position."""
    message = struct.pack("<QQ", seed % (1 << 64), position)
    return int.from_bytes(blake2b(message, digest_size=_RANDOM_BITS // 8, person=_DOMAIN).digest(), "little")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may be drawn and how likely each is.

    Attributes:
        weights: ``[rows, n]`` int64, proportional to probability, 0 for what the filters dropped.
        ids: ``[rows, n]`` int64 token of each weight; ``None`` where column i is token i.
    """

    weights: Tensor
    ids: Tensor | None


Filter = Callable[[Tensor, Tensor, Sequence[SamplingParams]], Candidates]


def choose_filter(params: SamplingParams, vocab_size: int) -> Filter:
    """Return the cheapest filter that is exact for these parameters; it looks at no other request's."""
    if params.top_k is not None and params.top_k < vocab_size:
        return filter_top_k if params.top_k <= _SMALL_TOP_K else filter_large_top_k
    return filter_top_p if params.top_p < 1.0 else filter_min_p


def filter_min_p(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams]) -> Candidates:
    """Apply temperature and min_p over the whole vocabulary, without sorting.

    Args (of this and the other filters):
        logits: ``[rows, vocab]`` float32, adjusted.
        peaks: ``[rows]``, each row's largest.
        params: one per row, temperature above 0.
    """
    return Candidates(_weigh_min_p(logits, peaks, params, weight_bits(logits.shape[1])), None)


def filter_top_p(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams]) -> Candidates:
    """Apply temperature, min_p and top_p, sorting only tokens that might be in the nucleus.

    All tokens lighter than (1 − top_p) · total / vocab weigh less than (1 − top_p) · total together, so none of them is
    needed to reach top_p: whoever stands behind them in the sorted order stands behind the nucleus.
    """
    bits = weight_bits(logits.shape[1])
    weights = _weigh_min_p(logits, peaks, params, bits)
    totals = weights.sum(dim=-1).tolist()
    wanted = [_ceil_share(p.top_p, total) for p, total in zip(params, totals, strict=True)]
    spare = [max(1, (total - need) // logits.shape[1]) for total, need in zip(totals, wanted, strict=True)]
    kept, ids = rank_kept(logits, weights >= _column(spare, weights))
    return Candidates(_cut_at(_weigh_min_p(kept, peaks, params, bits), wanted), ids)


def filter_top_k(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams]) -> Candidates:
    """Apply temperature, min_p, top_k (all tokens that tie with the k-th stay) and top_p, on the k likeliest only."""
    return _filter_from(kth_largest(logits, _top_ks(params)), logits, peaks, params)


def filter_large_top_k(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams]) -> Candidates:
    """Do as :func:`filter_top_k`, selecting row by row, which is cheaper than a long top-k of every row."""
    floors = [
        row.kthvalue(len(row) + 1 - k, keepdim=True).values for row, k in zip(logits, _top_ks(params), strict=True)
    ]
    return _filter_from(torch.stack(floors), logits, peaks, params)


def _filter_from(floors: Tensor, logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams]) -> Candidates:
    kept, ids = rank_kept(logits, logits >= floors)
    weights = _weigh_min_p(kept, peaks, params, weight_bits(logits.shape[1]))
    totals = weights.sum(dim=-1).tolist()
    return Candidates(_cut_at(weights, [_ceil_share(p.top_p, t) for p, t in zip(params, totals, strict=True)]), ids)


def _weigh_min_p(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams], bits: int) -> Tensor:
    temperatures = torch.tensor([p.temperature for p in params], dtype=torch.float64, device=logits.device)
    weights = weigh(logits, peaks, temperatures, bits)
    if any(p.min_p > 0.0 for p in params):
        floors = _column([_ceil_share(p.min_p, 1 << bits) for p in params], weights)
        weights.masked_fill_(weights < floors, 0)
    return weights


def _cut_at(weights: Tensor, wanted: Sequence[int]) -> Tensor:
    """Zero, in rows sorted by weight, every token before which the ``wanted`` mass was reached already."""
    before = weights.cumsum(dim=-1) - weights
    return weights.masked_fill(before >= _column(wanted, weights), 0)


def _ceil_share(share: float, total: int) -> int:
    """Return ⌈share · total⌉ exactly: for whole masses, below it and below ``share · total`` are the same."""
    numerator, denominator = float(share).as_integer_ratio()
    return -(-total * numerator // denominator)


def _top_ks(params: Sequence[SamplingParams]) -> list[int]:
    ks = [p.top_k for p in params if p.top_k is not None]
    assert len(ks) == len(params)
    return ks


def _column(numbers: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)[:, None]


def draw(candidates: Candidates, randoms: Sequence[int]) -> list[int]:
    """Return one token per row, by inverting the cumulative distribution at ``randoms`` (64 uniform bits per row)."""
    cumulative = candidates.weights.cumsum(dim=-1)
    targets = [bits * total >> _RANDOM_BITS for bits, total in zip(randoms, cumulative[:, -1].tolist(), strict=True)]
    slots = torch.searchsorted(cumulative, _column(targets, cumulative), right=True)
    chosen = slots if candidates.ids is None else candidates.ids.gather(-1, slots)
    return [int(token) for token in chosen[:, 0].tolist()]


def _draw_all(logits: Tensor, peaks: Tensor, best: list[int], sequences: Sequence[TokenSequence]) -> list[int]:
    """Return ``best`` with the tokens of all rows that are not greedy replaced by drawn ones."""
    groups: dict[Filter, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if not sequence.params.is_greedy:
            groups.setdefault(choose_filter(sequence.params, logits.shape[1]), []).append(row)
    tokens = list(best)
    step = max(1, CHUNK_LOGITS // logits.shape[1])
    for apply_filter, members in groups.items():
        for start in range(0, len(members), step):
            rows = members[start : start + step]
            params = [sequences[row].params for row in rows]
            randoms = [random_bits(sequences[row].seed, sequences[row].num_output_tokens) for row in rows]
            drawn = draw(apply_filter(_take(logits, rows), _take(peaks, rows), params), randoms)
            for row, token in zip(rows, drawn, strict=True):
                tokens[row] = token
    return tokens


def _take(rows_of: Tensor, rows: list[int]) -> Tensor:
    return rows_of if len(rows) == len(rows_of) else rows_of[torch.tensor(rows, device=rows_of.device)]


def _with_logprobs(logits: Tensor, tokens: list[int], sequences: Sequence[TokenSequence]) -> list[SampledToken]:
    wanted = {row: s.params.logprobs for row, s in enumerate(sequences) if s.params.logprobs is not None}
    sampled = [SampledToken(token) for token in tokens]
    if wanted:
        rows = list(wanted)
        entries = token_logprobs(_take(logits, rows), [tokens[row] for row in rows], list(wanted.values()))
        for row, entry in zip(rows, entries, strict=True):
            sampled[row] = entry
    return sampled
