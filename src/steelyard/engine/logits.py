"""From raw logits to what may be drawn: a request's biases, bans and penalties, and exact integer probability weights.

Why integers: a float sum over the vocabulary depends on the order of its additions, and that order on how many rows
stand beside it. A sum of integers does not, so a row's masses, thresholds and draws keep their bits in any batch. All
else done to whole batches here is element by element and rounds alike wherever an element stands.

Left out: filters and the draw (:mod:`steelyard.engine.sampling`), log-probabilities (:mod:`steelyard.engine.logprobs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence as TokenSequence
from steelyard.kernels.argmax import argmax_rows

CHUNK_LOGITS = 1 << 20  # logits worked on at once in float64: a workspace of a few times 8 MiB, which caches still like
_TOTAL_BITS = 62
_FLOAT32_MAX = torch.finfo(torch.float32).max


class TokenHistory:
    """Which tokens one sequence has seen, and how often it has generated each; follows the sequence as it grows.

    Attributes:
        seen: ``[vocab]`` bool, tokens of the prompt or the output.
        counts: ``[vocab]`` float32, occurrences in the output.
    """

    def __init__(self, sequence: TokenSequence, vocab_size: int, device: torch.device) -> None:
        self.sequence = sequence
        self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.counts = torch.zeros(vocab_size, dtype=torch.float32, device=device)
        self.seen[torch.tensor(sequence.tokens[: sequence.num_prompt_tokens], dtype=torch.int64, device=device)] = True
        self._num_known = sequence.num_prompt_tokens

    def catch_up(self) -> None:
        """Take in the tokens that the sequence gained since the last call."""
        new = self.sequence.tokens[self._num_known :]
        if new:
            ids = torch.tensor(new, dtype=torch.int64, device=self.seen.device)
            self.seen[ids] = True
            self.counts.index_add_(0, ids, torch.ones(len(new), device=ids.device))
        self._num_known += len(new)


class LogitsAdjuster:
    """Applies logit_bias, then the bans (``suppress``, min_tokens), then repetition, frequency and presence penalties.

    Where ``suppress`` leaves nothing that min_tokens allows, min_tokens yields.

    Keeps the :class:`TokenHistory` of penalised sequences from one call to the next; those missing from a call are
    forgotten, and counted afresh should they come back.

    Args:
        eos_token_ids: end-of-sequence tokens, banned before min_tokens unless the request ignores them.
    """

    def __init__(self, eos_token_ids: Iterable[int] = ()) -> None:
        self._eos = tuple(sorted(set(eos_token_ids)))
        self._histories: dict[int, TokenHistory] = {}

    def __call__(
        self, logits: Tensor, sequences: Sequence[TokenSequence], suppress: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Return the adjusted ``[rows, vocab]`` logits: a copy, or ``logits`` itself if nothing applies.

        Args:
            logits: ``[rows, vocab]`` float32; not changed.
            sequences: one per row.
            suppress: row → bool ``[vocab]``, true where a token must not be chosen.
        """
        suppressed = suppress or {}
        penalised = [row for row, sequence in enumerate(sequences) if sequence.params.has_penalties]
        biased = [row for row, sequence in enumerate(sequences) if sequence.params.logit_bias]
        banned = [(row, ids) for row, sequence in enumerate(sequences) if (ids := self._banned(sequence))]
        self._follow([sequences[row] for row in penalised], logits)
        if not (suppressed or penalised or biased or banned):
            return logits
        adjusted = logits.clone()
        for row in biased:
            _add_bias(adjusted[row], sequences[row].params)
        for row, forbidden in suppressed.items():
            adjusted[row].masked_fill_(forbidden, float("-inf"))
        for row, ids in banned:
            usable = [token for token in ids if token < adjusted.shape[1]]
            _ban(adjusted[row], torch.tensor(usable, dtype=torch.int64, device=adjusted.device), suppressed.get(row))
        for row in penalised:
            _penalise(adjusted[row], self._histories[sequences[row].id], sequences[row].params)
        return adjusted

    def leaves_alone(self, sequence: TokenSequence) -> bool:
        """Return whether nothing but a ``suppress`` row would change this sequence's next logits."""
        params = sequence.params
        return not (params.has_penalties or params.logit_bias or self._banned(sequence))

    def _banned(self, sequence: TokenSequence) -> tuple[int, ...]:
        params = sequence.params
        if sequence.num_output_tokens >= params.min_tokens:
            return ()
        goes_on = params.ignore_eos and params.constraint is None
        return params.stop_token_ids if goes_on else params.stop_token_ids + self._eos

    def _follow(self, sequences: Sequence[TokenSequence], logits: Tensor) -> None:
        known, self._histories = self._histories, {}
        for sequence in sequences:
            history = known.get(sequence.id)
            if history is None or history.sequence is not sequence:
                history = TokenHistory(sequence, logits.shape[1], logits.device)
            history.catch_up()
            self._histories[sequence.id] = history


def _ban(row: Tensor, ids: Tensor, forbidden: Tensor | None) -> None:
    """Forbid the tokens ``ids`` in a row, unless they are all that the tokens ``forbidden`` leave."""
    if forbidden is None or not bool(forbidden.index_fill(0, ids, True).all()):
        row[ids] = float("-inf")


def _add_bias(row: Tensor, params: SamplingParams) -> None:
    ids = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=row.device)
    row[ids] += torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=row.device)


def _penalise(row: Tensor, history: TokenHistory, params: SamplingParams) -> None:
    if params.repetition_penalty != 1.0:
        # A tiny penalty can overflow; the largest finite logit says the same and keeps later differences defined.
        divided = (row / params.repetition_penalty).clamp_(max=_FLOAT32_MAX)
        scaled = torch.where(row > 0, divided, row * params.repetition_penalty)
        row.copy_(torch.where(history.seen, scaled, row))
    if params.frequency_penalty != 0.0:
        row.sub_(history.counts * params.frequency_penalty)
    if params.presence_penalty != 0.0:
        row.sub_((history.counts > 0) * params.presence_penalty)


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's largest logit ``[rows]`` and its token ``[rows]`` int64, the lowest id among equals.

    A row with a NaN has NaN as its largest, so that the one value tells whether the row can be used.
    """
    return argmax_rows(logits)


def check_model_output(peaks: Tensor, names: Sequence[str]) -> None:
    """Check the rows' largest raw logits ``[rows]``; ``names`` say what each row belongs to.

    Raises:
        ResourceError: if one is NaN or infinite, or a row is all −∞.
    """
    bad = [name for name, peak in zip(names, peaks.tolist(), strict=True) if not isfinite(peak)]
    if not bad:
        return
    raise ResourceError(
        f"the model returned NaN or infinite logits for {', '.join(dict.fromkeys(bad))}; most often float16 overflowed",
        field="logits",
        remedy="Load the model with dtype bfloat16 or float32; if that does not help, its weights are damaged",
    )


def check_choice_left(peaks: Tensor, names: Sequence[str]) -> None:
    """Check the rows' largest adjusted logits ``[rows]``.

    Raises:
        ParamsError: if a row's tokens are all banned.
    """
    bad = [name for name, peak in zip(names, peaks.tolist(), strict=True) if not isfinite(peak)]
    if not bad:
        return
    raise ParamsError(
        f"every token is forbidden for {', '.join(dict.fromkeys(bad))}",
        field="min_tokens",
        remedy="Lower min_tokens, or forbid fewer tokens",
    )


def weight_bits(vocab_size: int) -> int:
    """Return b such that a token as likely as the likeliest weighs 2^b, and a whole vocabulary below 2^62."""
    return _TOTAL_BITS - vocab_size.bit_length()


def weigh(logits: Tensor, peaks: Tensor, temperatures: Tensor, bits: int) -> Tensor:
    """Return ``[rows, n]`` int64 weights ⌊2^bits · exp((logit − peak) / temperature)⌋, proportional to probability.

    Tokens less likely than 2^−bits times the likeliest (2^−46 for a vocabulary of 49k) weigh nothing.

    Args:
        logits: ``[rows, n]`` float32; −∞ weighs nothing.
        peaks: ``[rows]``, each row's largest logit.
        temperatures: ``[rows]`` float64, above 0.
        bits: from :func:`weight_bits`.
    """
    scaled = logits.double().sub_(peaks[:, None]).div_(temperatures[:, None])
    return scaled.exp_().mul_(2.0**bits).long()


def rank_kept(logits: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the kept tokens of each row, likeliest first, the lower id first among equals.

    Args:
        logits: ``[rows, vocab]``.
        keep: ``[rows, vocab]`` bool, at least one true.

    Returns:
        Logits and token ids, both ``[rows, most kept in a row]``; shorter rows end in −∞ and id 0.
    """
    counts = keep.sum(dim=-1).tolist()
    places = keep.flatten().nonzero()[:, 0]
    values = torch.split(logits.flatten().index_select(0, places), counts)
    ids = torch.split(places % logits.shape[1], counts)
    kept = pad_sequence(list(values), batch_first=True, padding_value=float("-inf"))
    kept, order = kept.sort(dim=-1, descending=True, stable=True)
    return kept, pad_sequence(list(ids), batch_first=True).gather(-1, order)


def kth_largest(logits: Tensor, ks: Sequence[int]) -> Tensor:
    """Return ``[rows, 1]``: the ``ks[row]``-th largest logit of each row, 1 ≤ k ≤ vocab."""
    top = logits.topk(max(ks), dim=-1).values
    return top.gather(-1, torch.tensor(ks, device=logits.device)[:, None] - 1)
