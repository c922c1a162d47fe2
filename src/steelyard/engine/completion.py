"""One completion as it grows: tokens, the text they spell, and whether it has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, FinishReason, SampledToken
from steelyard.core.sequence import Sequence
from steelyard.engine.stopping import StopChecker


class TextStream(Protocol):
    """Turns tokens into text that will not change any more (models.text.detokenizer)."""

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that has become definite."""
        ...

    def flush(self) -> str:
        """Return what is left at the end."""
        ...


TextFactory = Callable[[SamplingParams], TextStream]


@dataclass(slots=True)
class Bookmark:
    """How far somebody has read in a completion, from its beginning; its ``read`` moves it."""

    num_tokens: int = 0
    num_pieces: int = 0
    ended: bool = False


class GrowingText:
    """Text in pieces, which costs its readers only what they have not read."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._whole, self._num_joined = "", 0  # the first pieces as one

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._pieces)

    def append(self, piece: str) -> None:
        """Grow."""
        self._pieces.append(piece)

    def since(self, num_pieces: int) -> str:
        """Return what came after so many pieces."""
        return "".join(self._pieces[num_pieces:])

    def whole(self) -> str:
        """Return all of it."""
        self._whole += self.since(self._num_joined)
        self._num_joined = len(self._pieces)
        return self._whole


class CompletionState:
    """A sequence with its text and its end. The engine pushes tokens; responses take snapshots.

    Args:
        sequence: grows by every token pushed.
        eos_token_ids: tokens that end it unless the request ignores them.
        max_model_len: tokens of prompt and output together.
        text: makes the text stream; ``None`` for token ids only.
    """

    def __init__(
        self, sequence: Sequence, eos_token_ids: frozenset[int], max_model_len: int, text: TextFactory | None
    ) -> None:
        self.sequence = sequence
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self._stream = text(sequence.params) if text is not None else None
        self._checker = StopChecker(
            sequence.params,
            eos_token_ids=eos_token_ids,
            num_prompt_tokens=sequence.num_prompt_tokens,
            max_model_len=max_model_len,
        )
        self._text = GrowingText()
        self._logprobs: list[SampledToken] | None = None if sequence.params.logprobs is None else []

    @property
    def num_tokens(self) -> int:
        """Tokens of the output so far."""
        return self.sequence.num_output_tokens

    @property
    def num_tokens_left(self) -> int | None:
        """Tokens until it ends by its length; ``None`` if something else may end it before."""
        return self._checker.num_tokens_left

    def push(self, token: SampledToken) -> None:
        """Append a token; sets :attr:`finish_reason` if it is the last."""
        self.sequence.tokens.append(token.token_id)
        if self._logprobs is not None:
            self._logprobs.append(token)
        piece = self._stream.push(token.token_id) if self._stream is not None else ""
        decision = self._checker.push(token.token_id, piece, completes=token.completes)
        if decision is not None:
            self.end(decision.finish_reason)
        else:
            self._text.append(self._checker.take())

    def end(self, reason: FinishReason) -> None:
        """End it, unless it has ended already: for ``reason``, or for a stop string in the text still held back."""
        if self.finish_reason is not None:
            return
        decision = self._checker.close(self._stream.flush() if self._stream is not None else "")
        self.finish_reason = reason if decision is None else decision.finish_reason
        self.stop_reason = None if decision is None else decision.stop_reason
        self._text.append(self._checker.take())

    def snapshot(self) -> CompletionOutput:
        """Return what is known now."""
        return self._output(self._text.whole(), 0)

    def read(self, mark: Bookmark) -> CompletionOutput | None:
        """Return only what was added since ``mark``, which is moved; ``None`` if that is nothing.

        Costs what was added, however long the completion is.
        """
        num_tokens, ended = self.num_tokens, self.finish_reason is not None
        if num_tokens == mark.num_tokens and ended == mark.ended:
            return None
        added = self._output(self._text.since(mark.num_pieces), mark.num_tokens)
        mark.num_tokens, mark.num_pieces, mark.ended = num_tokens, len(self._text), ended
        return added

    def _output(self, text: str, first_token: int) -> CompletionOutput:
        return CompletionOutput(
            index=self.sequence.index,
            text=text,
            token_ids=tuple(self.sequence.tokens[self.sequence.num_prompt_tokens + first_token :]),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=None if self._logprobs is None else tuple(self._logprobs[first_token:]),
        )
