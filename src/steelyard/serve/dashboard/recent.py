"""The requests that ended lately: :class:`RecentRequests`. It keeps numbers, no text and no names of callers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.core.clock import now_s
from steelyard.core.request import FinishReason, RequestOutput

_NUM_KEPT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """One prompt that was answered, or whose client has gone.

    Attributes:
        ended_s: event-loop time.
        model: its name in answers.
        num_prompt_tokens: of the prompt.
        num_cached_tokens: of these, found in the prefix cache.
        num_output_tokens: of all completions.
        ttft_s: time to first token; ``None`` if there was none.
        tpot_s: mean time between the tokens of the longest completion; ``None`` if it has fewer than two.
        reason: why its first completion ended.
    """

    ended_s: float
    model: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    reason: FinishReason


class RecentRequests:
    """Keeps the last few hundred."""

    def __init__(self) -> None:
        self._ended: deque[EndedRequest] = deque(maxlen=_NUM_KEPT)

    def add(self, model: str, output: RequestOutput) -> None:
        """Note a request that ends now."""
        self._ended.append(
            EndedRequest(
                ended_s=now_s(),
                model=model,
                num_prompt_tokens=len(output.prompt_token_ids),
                num_cached_tokens=output.num_cached_tokens,
                num_output_tokens=sum(len(completion.token_ids) for completion in output.outputs),
                ttft_s=output.times.ttft_s,
                tpot_s=_tpot_s(output),
                reason=output.outputs[0].finish_reason or FinishReason.CANCELLED,
            )
        )

    def of(self, model: str, since_s: float) -> Iterator[EndedRequest]:
        """Yield a model's requests that ended after ``since_s``, the oldest first."""
        return (one for one in self._ended if one.model == model and one.ended_s > since_s)


def _tpot_s(output: RequestOutput) -> float | None:
    times = output.times
    longest = max(len(completion.token_ids) for completion in output.outputs)
    if longest < 2 or times.first_token_s is None or times.last_token_s is None:
        return None
    return (times.last_token_s - times.first_token_s) / (longest - 1)
