"""When one completion ends, and which of its text may be shown already.

Fed with token ids and the text they made definite; knows no tokenizer. Text that may turn out to be the beginning of a
stop string is held back until that is settled, so a reader of the stream never sees text that is withdrawn later.
Stop strings are followed character by character (Knuth, Morris and Pratt's automaton), so the work is linear in the
text and it makes no difference how the text was cut into pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason


@dataclass(frozen=True, slots=True)
class StopDecision:
    """Why a completion ended.

    Attributes:
        finish_reason: ``STOP`` or ``LENGTH``.
        stop_reason: the stop string, or the token of ``stop_token_ids``; ``None`` for end of sequence and length.
    """

    finish_reason: FinishReason
    stop_reason: str | int | None = None


class StringMatcher:
    """Follows one stop string through a text, a character at a time.

    Attributes:
        target: the stop string.
        num_matched: length of the longest end of the text that begins ``target`` without being all of it.
    """

    __slots__ = ("_borders", "num_matched", "target")

    def __init__(self, target: str) -> None:
        self.target = target
        self.num_matched = 0
        self._borders = _borders(target)

    def feed(self, char: str) -> bool:
        """Take the next character; return whether ``target`` ends with it."""
        matched = self.num_matched
        while matched and self.target[matched] != char:
            matched = self._borders[matched]
        matched += self.target[matched] == char
        complete = matched == len(self.target)
        self.num_matched = self._borders[matched] if complete else matched
        return complete


def _borders(target: str) -> list[int]:
    """Return for each n ≤ length the longest proper prefix of ``target[:n]`` that is also its suffix."""
    borders = [0, 0]
    for n in range(1, len(target)):
        border = borders[n]
        while border and target[border] != target[n]:
            border = borders[border]
        borders.append(border + (target[border] == target[n]))
    return borders


class StopChecker:
    """Decides after each token whether the completion has ended, and releases its text.

    Per token call :meth:`push` and, to stream, :meth:`take`. After a decision, or to end the completion for other
    reasons, call :meth:`close` once with the text that the detokenizer still held; the last :meth:`take` then returns
    everything up to the end.

    When several stop strings match, the one that completes first wins, and of those that complete together the one that
    began first. One that completes while fewer than ``min_tokens`` tokens are known is ordinary text. Stop strings win
    over length; an ending token wins over stop strings, and its own text is dropped unless
    ``include_stop_str_in_output``. Under a constraint an end-of-sequence token ends it whatever ``min_tokens`` and
    ``ignore_eos`` say: it was sampled because the text may end there.

    Args:
        params: the request's.
        eos_token_ids: end-of-sequence tokens; they end the completion unless ``ignore_eos``.
        num_prompt_tokens: length of the prompt.
        max_model_len: tokens that prompt and output may have together.
    """

    def __init__(
        self, params: SamplingParams, *, eos_token_ids: frozenset[int], num_prompt_tokens: int, max_model_len: int
    ) -> None:
        self._include_stop = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._max_tokens = min(params.max_tokens or max_model_len, max_model_len - num_prompt_tokens)
        self._eos = frozenset() if params.ignore_eos else eos_token_ids
        self._constraint_end = frozenset() if params.constraint is None else eos_token_ids
        self._stop_token_ids = frozenset(params.stop_token_ids)
        self._matchers = [StringMatcher(target) for target in params.stop]
        self._num_tokens = 0
        self._ready: list[str] = []
        self._held = ""
        self._text_ended = False
        self._decision: StopDecision | None = None

    @property
    def decision(self) -> StopDecision | None:
        """The decision, once there is one."""
        return self._decision

    @property
    def num_tokens_left(self) -> int | None:
        """Tokens until the length ends it; ``None`` if a token or a string may end it before."""
        if self._eos or self._constraint_end or self._stop_token_ids or self._matchers:
            return None
        return self._max_tokens - self._num_tokens

    def push(self, token_id: int, piece: str, *, completes: bool = False) -> StopDecision | None:
        """Take the next token and the text it made definite (often none); return the decision if this ends it.

        ``completes`` says that nothing may follow the token, which belongs to the text.

        Nothing may be pushed after a decision or :meth:`close`.
        """
        assert self._decision is None, "a token was pushed after the end"
        self._num_tokens += 1
        if (stop := self._token_stop(token_id)) is not None:
            self._end_at_token(stop, piece)
        else:
            self._scan(piece)
            if self._decision is None and completes:
                self._decision = StopDecision(FinishReason.STOP)
            if self._decision is None and self._num_tokens >= self._max_tokens:
                self._decision = StopDecision(FinishReason.LENGTH)
        return self._decision

    def close(self, tail: str = "") -> StopDecision | None:
        """Release what was held back, after ``tail``, the text that became definite only by the end.

        A stop string that ``tail`` completes ends the text and the completion after all. Ignored once the text has
        ended at a stop string or token. Idempotent with an empty tail.

        Returns:
            The final decision; ``None`` if nothing but the caller ended the completion.
        """
        if not self._text_ended:
            self._scan(tail)
        self._release(len(self._held))
        self._text_ended = True
        return self._decision

    def take(self) -> str:
        """Return the text released since the last call; once returned it stays part of the completion."""
        text = "".join(self._ready)
        self._ready.clear()
        return text

    def _token_stop(self, token_id: int) -> StopDecision | None:
        if token_id in self._constraint_end:
            return StopDecision(FinishReason.STOP)
        if self._num_tokens < self._min_tokens:
            return None
        if token_id in self._eos:
            return StopDecision(FinishReason.STOP)
        return StopDecision(FinishReason.STOP, token_id) if token_id in self._stop_token_ids else None

    def _end_at_token(self, stop: StopDecision, piece: str) -> None:
        self._held += piece if self._include_stop else ""
        self._matchers = []  # what the detokenizer may still hold belongs to this token: no stop string looks at it
        self._release(len(self._held))
        self._decision, self._text_ended = stop, not self._include_stop

    def _scan(self, piece: str) -> None:
        """Append ``piece``, look for stop strings that complete in it, and release what no match can claim."""
        offset = len(self._held)
        self._held += piece
        if not self._matchers:
            self._release(len(self._held))
            return
        for index, char in enumerate(piece, offset + 1):
            complete = [m.target for m in self._matchers if m.feed(char)]
            if complete and self._num_tokens >= self._min_tokens:
                self._end_at_string(max(complete, key=len), index)
                return
        claimed = 0 if self._include_stop else max(m.num_matched for m in self._matchers)
        self._release(len(self._held) - claimed)

    def _end_at_string(self, target: str, end: int) -> None:
        self._held = self._held[: end if self._include_stop else end - len(target)]
        self._release(len(self._held))
        self._decision, self._text_ended = StopDecision(FinishReason.STOP, target), True

    def _release(self, num_chars: int) -> None:
        if num_chars:
            self._ready.append(self._held[:num_chars])
            self._held = self._held[num_chars:]
