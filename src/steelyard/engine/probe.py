"""Questions to a model that are not generation: logits and scores of whole texts.

They run outside the schedule, through the same paged attention as generation, over a private KV store that lives for
one call. Their numbers are therefore the engine's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.engine.admission import check_prompt
from steelyard.engine.model_runner import ModelRunner
from steelyard.memory.kv_store import make_kv_store
from steelyard.memory.paged_kv import KVShape

_LOGITS_ROWS = 256


@dataclass(frozen=True, slots=True)
class TextScore:
    """How likely a text is.

    Attributes:
        token_ids: the text's tokens.
        logprobs: natural log-probability of each token given those before it; the first is ``None``.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]

    @property
    def total_logprob(self) -> float:
        """Sum over the predicted tokens."""
        return sum(value for value in self.logprobs if value is not None)

    @property
    def num_predicted(self) -> int:
        """Tokens that something predicted: all but the first."""
        return len(self.token_ids) - 1


class Prober:
    """Answers questions about one text at a time.

    Args:
        runner: runs the model.
        shape: of the KV cache to make for each question.
        device: where.
        max_model_len: longest text, tokens.
        vocab_size: for checking ids.
        chunk_tokens: tokens computed at once.
    """

    def __init__(
        self,
        runner: ModelRunner,
        shape: KVShape,
        device: torch.device,
        *,
        max_model_len: int,
        vocab_size: int,
        chunk_tokens: int,
    ) -> None:
        self._runner, self._shape, self._device = runner, shape, device
        self._max_model_len, self._vocab_size, self._chunk_tokens = max_model_len, vocab_size, chunk_tokens

    def logits(self, token_ids: tuple[int, ...]) -> Tensor:
        """Return ``[tokens, vocab_size]`` float32."""
        return torch.cat([self._runner.logits(hidden) for hidden in self._hidden(token_ids)])

    def score(self, token_ids: tuple[int, ...]) -> TextScore:
        """Return the log-probability of each token given those before it."""
        targets = torch.tensor(token_ids[1:], dtype=torch.int64, device=self._device)
        found: list[float] = []
        for hidden in self._hidden(token_ids):
            for rows in torch.split(hidden, _LOGITS_ROWS):
                chosen = targets[len(found) : len(found) + len(rows)]
                logprobs = self._runner.logits(rows[: len(chosen)]).log_softmax(dim=-1)
                found.extend(logprobs.gather(1, chosen[:, None]).flatten().tolist())
        return TextScore(token_ids, (None, *found))

    def _hidden(self, token_ids: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the final hidden states, ``[chunk, hidden_size]`` at a time."""
        check_prompt(token_ids, self._max_model_len + 1, self._vocab_size)
        num_blocks = ceil_div(len(token_ids), self._shape.block_size)
        store = make_kv_store(self._shape, num_blocks, self._device)
        sequence = _sequence(token_ids)
        for start in range(0, len(token_ids), self._chunk_tokens):
            count = min(self._chunk_tokens, len(token_ids) - start)
            work = SequenceWork(sequence, start, count, tuple(range(num_blocks)))
            yield self._runner.hidden((work,), store)


def _sequence(token_ids: tuple[int, ...]) -> Sequence:
    params = SamplingParams(max_tokens=1)
    return Sequence(id=0, request_id="", index=0, prompt=token_ids, params=params, seed=0, arrival_s=0.0)
