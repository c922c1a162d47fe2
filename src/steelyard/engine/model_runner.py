"""One step of a real model: packed tensors in, sampled tokens out. Synchronous; knows no event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from steelyard.core.batch import Batch, SequenceWork, StepOutput
from steelyard.core.clock import Stopwatch
from steelyard.core.errors import SteelyardError
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence as TokenSequence
from steelyard.core.units import round_up
from steelyard.cost.operators import ATTENTION, ELEMENTWISE, KV_WRITE, LINEAR, LM_HEAD, SAMPLING
from steelyard.engine.constraints import ConstraintFollower
from steelyard.engine.logprobs import prompt_logprobs
from steelyard.engine.pooling import pool_rows
from steelyard.engine.sampling import Sampler
from steelyard.memory.kv_store import KVStore
from steelyard.memory.paged_kv import KVShape
from steelyard.models.contract import LanguageModel
from steelyard.models.fused import FusedDecoder

_LOGITS_ROWS = 256
# What a native step's kinds of operations are to the cost model; its norms, sums and the like are elementwise.
_OPERATORS = {
    "QKV": LINEAR,
    "attention output": LINEAR,
    "MLP gate, up": LINEAR,
    "MLP down": LINEAR,
    "rope and KV write": KV_WRITE,
    "attention": ATTENTION,
}


class DecodeSteps(Protocol):
    """Computes steps in which every sequence computes one token, faster than kernel by kernel from Python."""

    def takes(self, works: Sequence[SequenceWork]) -> bool:
        """Return whether it can compute this step."""
        ...

    def hidden(self, works: Sequence[SequenceWork]) -> Tensor:
        """Return ``[sequences, hidden_size]``, valid until the next call."""
        ...


class ModelRunner:
    """Runs batches through a model and its KV store.

    Args:
        model: packed-token language model on ``store.device``.
        store: where keys and values live.
        sampler: picks tokens from logits.
        row_tile: packed tokens are padded to a multiple of this, so that rows keep their bits (kernels.linear).
        decodes: computes steps of decodes over ``store`` in a way of its own; ``None`` for as all others.
        constraints: says what sequences with constraints must not take next; ``None`` if none will have any.
    """

    def __init__(
        self,
        model: LanguageModel,
        store: KVStore,
        sampler: Sampler,
        row_tile: int = 1,
        decodes: DecodeSteps | None = None,
        constraints: ConstraintFollower | None = None,
    ) -> None:
        self._model, self._store, self._sampler, self._row_tile = model, store, sampler, row_tile
        self._decodes, self._constraints = decodes, constraints
        self._seconds = {LM_HEAD: 0.0, SAMPLING: 0.0}

    @property
    def kv_shape(self) -> KVShape:
        """Shape and number format of the store."""
        return self._store.shape

    @property
    def block_size(self) -> int:
        """Tokens per KV block of the store."""
        return self._store.shape.block_size

    @torch.inference_mode()
    def run(self, batch: Batch) -> StepOutput:
        """Compute one step: write KV, attend, and sample or pool the work items that want it."""
        works, hidden = batch.works, self._hidden(batch.works, self._store)
        sampled, failed = self._sample(works, hidden)
        return StepOutput(sampled, self._prompt_logprobs(works, hidden), failed, _pool(works, hidden))

    def take_profile(self) -> dict[str, float]:
        """Return seconds spent per operator of :mod:`steelyard.cost.operators` since the last call.

        Operators within the layers are known of native steps only. On CUDA the seconds are those of starting the work.
        """
        taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        if isinstance(self._model, FusedDecoder):
            taken |= {LINEAR: 0.0, KV_WRITE: 0.0, ATTENTION: 0.0, ELEMENTWISE: 0.0}
            for kind, seconds in self._model.take_profile().items():
                taken[_OPERATORS.get(kind, ELEMENTWISE)] += seconds
        return taken

    @torch.inference_mode()
    def hidden(self, sequence_work: Sequence[SequenceWork], store: KVStore) -> Tensor:
        """Return ``[tokens, hidden_size]`` for works over another store (scoring uses a private one)."""
        return self._hidden(sequence_work, store)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return ``[rows, vocab_size]`` float32 logits of ``hidden`` ``[rows, hidden_size]``."""
        return self._model.logits(hidden)

    def _hidden(self, works: Sequence[SequenceWork], store: KVStore) -> Tensor:
        if store is self._store and self._decodes is not None and self._decodes.takes(works):
            return self._decodes.hidden(works)
        num_tokens = sum(work.num_tokens for work in works)
        padding = round_up(num_tokens, self._row_tile) - num_tokens
        tokens = [token for work in works for token in work.sequence.tokens[work.start : work.end]]
        positions = [position for work in works for position in range(work.start, work.end)]
        hidden = self._model(
            torch.tensor(tokens + [0] * padding, device=store.device),
            torch.tensor(positions + [0] * padding, device=store.device),
            store.step(works),
        )
        return hidden[:num_tokens]

    def _sample(
        self, works: Sequence[SequenceWork], hidden: Tensor
    ) -> tuple[dict[int, tuple[SampledToken, ...]], dict[int, SteelyardError]]:
        last_rows, sequences, row = [], [], 0
        for work in works:
            row += work.num_tokens
            if work.samples:
                last_rows.append(row - 1)
                sequences.append(work.sequence)
        if not sequences:
            return {}, {}
        if len(last_rows) < len(hidden):
            hidden = hidden[torch.tensor(last_rows, device=hidden.device)]
        model = self._model
        names_likeliest = isinstance(model, FusedDecoder) and model.names_likeliest
        if names_likeliest and all(map(self._sampler.wants_only_likeliest, sequences)):
            return self._take_likeliest(cast(FusedDecoder, model), hidden, sequences), {}
        with Stopwatch() as head:
            logits = model.logits(hidden)
        with Stopwatch() as sampling:
            tokens, failed = self._choose(logits, sequences)
        self._seconds[LM_HEAD] += head.elapsed_s
        self._seconds[SAMPLING] += sampling.elapsed_s
        return {s.id: (token,) for s, token in zip(sequences, tokens, strict=True) if s.id not in failed}, failed

    def _take_likeliest(
        self, model: FusedDecoder, hidden: Tensor, sequences: Sequence[TokenSequence]
    ) -> dict[int, tuple[SampledToken, ...]]:
        with Stopwatch() as head:
            peaks, best = model.likeliest(hidden)
        with Stopwatch() as sampling:
            tokens = self._sampler.take_likeliest(peaks, best, sequences)
        self._seconds[LM_HEAD] += head.elapsed_s
        self._seconds[SAMPLING] += sampling.elapsed_s
        return {sequence.id: (token,) for sequence, token in zip(sequences, tokens, strict=True)}

    def _choose(
        self, logits: Tensor, sequences: Sequence[TokenSequence]
    ) -> tuple[list[SampledToken], dict[int, SteelyardError]]:
        """Sample under constraints; what is forbidden is found while an asynchronous device may still compute."""
        if self._constraints is None:
            return self._sampler.sample(logits, sequences), {}
        suppress, failed = self._constraints.look_ahead(sequences, logits.device)
        return self._constraints.note(sequences, self._sampler.sample(logits, sequences, suppress)), failed

    def _prompt_logprobs(self, works: Sequence[SequenceWork], hidden: Tensor) -> dict[int, tuple[SampledToken, ...]]:
        found, row = {}, 0
        for work in works:
            top = work.sequence.params.prompt_logprobs
            count = min(work.end, work.sequence.num_prompt_tokens - 1) - work.start
            if top is not None and count > 0:
                targets = work.sequence.tokens[work.start + 1 : work.start + 1 + count]
                found[work.sequence.id] = tuple(self._logprobs(hidden[row : row + count], targets, top))
            row += work.num_tokens
        return found

    def _logprobs(self, hidden: Tensor, targets: list[int], num_top: int) -> Iterator[SampledToken]:
        for start in range(0, len(targets), _LOGITS_ROWS):
            rows = slice(start, start + _LOGITS_ROWS)
            yield from prompt_logprobs(self._model.logits(hidden[rows]), targets[rows], num_top)


def _pool(works: Sequence[SequenceWork], hidden: Tensor) -> dict[int, tuple[float, ...]]:
    """Return what the step adds to the vectors of sequences that are pooled."""
    found, row = {}, 0
    for work in works:
        pooling = work.sequence.pooling
        if pooling is not None:
            rows = hidden[row : row + work.num_tokens]
            found[work.sequence.id] = pool_rows(rows, pooling.kind, reaches_end=work.reaches_end)
        row += work.num_tokens
    return found
