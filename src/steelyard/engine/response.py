"""What a request's caller holds while the engine works on it: a :class:`Response` that grows and can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

from steelyard.core.errors import SteelyardError
from steelyard.core.request import CompletionOutput, FinishReason, Request, RequestOutput, RequestTimes, SampledToken
from steelyard.engine.completion import Bookmark
from steelyard.engine.pooling import PooledVector


class Completion(Protocol):
    """One completion as whoever writes a response keeps it."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended, once it has."""

    @property
    def num_tokens(self) -> int:
        """Tokens of its output so far."""

    def end(self, reason: FinishReason) -> None:
        """End it for ``reason``, unless it has ended already."""

    def snapshot(self) -> CompletionOutput:
        """Return what is known now."""

    def read(self, mark: Bookmark) -> CompletionOutput | None:
        """Return only what was added since ``mark``, which is moved; ``None`` if that is nothing."""


C = TypeVar("C", bound=Completion, covariant=True)


class Response(Generic[C]):
    """A request's outputs so far. An engine writes; callers take snapshots.

    Attributes:
        request: what was asked.
        completions: one state per completion, in order.
        error: what ended the request abnormally, if anything did.
    """

    def __init__(self, request: Request, completions: tuple[C, ...], arrival_s: float) -> None:
        self.request, self.completions = request, completions
        self.error: SteelyardError | None = None
        self.num_cached_tokens = 0
        self._arrival_s = arrival_s
        self._first_scheduled_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None
        self._prompt_logprobs: dict[int, SampledToken | None] = {}
        self._vector: PooledVector | None = None
        if request.pooling is not None:
            self._vector = PooledVector(request.pooling, len(request.prompt_token_ids))
        self._pooled: tuple[float, ...] | None = None
        self._changed = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return self.error is not None or None not in [completion.finish_reason for completion in self.completions]

    def note_scheduled(self, now_s: float, num_cached_tokens: int) -> None:
        """Record the first admission: when, and how much of the prompt the prefix cache held."""
        if self._first_scheduled_s is None:
            self._first_scheduled_s, self.num_cached_tokens = now_s, num_cached_tokens

    def note_prompt_logprobs(self, first_position: int, entries: tuple[SampledToken | None, ...]) -> None:
        """Store the prompt log-probabilities of positions from ``first_position`` on; computing them again is fine."""
        self._prompt_logprobs.update(enumerate(entries, first_position))

    def note_pooled(self, first_position: int, part: tuple[float, ...], *, is_last: bool) -> None:
        """Add to the prompt's vector what the tokens from ``first_position`` on contribute."""
        assert self._vector is not None
        self._vector.add(first_position, part)
        if is_last:
            self._pooled = self._vector.value()

    def note_vector(self, vector: tuple[float, ...]) -> None:
        """Store the prompt's vector, made elsewhere."""
        self._pooled = vector

    def note_token(self, now_s: float) -> None:
        """Record that a token was committed and wake whoever waits."""
        if self._first_token_s is None:
            self._first_token_s = now_s
        self._last_token_s = now_s
        self._changed.set()

    def wake(self) -> None:
        """Wake whoever waits: there is news without a token."""
        self._changed.set()

    def end(self, reason: FinishReason, error: SteelyardError | None = None) -> None:
        """End every unfinished completion for ``reason`` and wake whoever waits."""
        for completion in self.completions:
            completion.end(reason)
        self.error = error
        self._changed.set()

    def snapshot(self) -> RequestOutput:
        """Return everything known now."""
        return RequestOutput(
            request_id=self.request.id,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=tuple(completion.snapshot() for completion in self.completions),
            finished=self.finished,
            times=RequestTimes(
                arrival_s=self._arrival_s,
                first_scheduled_s=self._first_scheduled_s,
                first_token_s=self._first_token_s,
                last_token_s=self._last_token_s,
            ),
            prompt_logprobs=self._all_prompt_logprobs(),
            pooled=self._pooled,
            num_cached_tokens=self.num_cached_tokens,
        )

    async def outputs(self) -> AsyncIterator[RequestOutput]:
        """Yield a cumulative output whenever there is news, the finished one last.

        Raises:
            SteelyardError: what ended the request abnormally.
        """
        while not (output := await self.next_output()).finished:
            yield output
        yield output

    async def next_output(self) -> RequestOutput:
        """Wait for news and return the cumulative output; the finished one at once. Raises like :meth:`outputs`."""
        await self.news()
        return self.snapshot()

    async def news(self) -> bool:
        """Wait for news, unless it has finished; return whether it has. Raises like :meth:`outputs`."""
        if not self.finished:
            await self._changed.wait()
            self._changed.clear()
        if self.error is not None:
            raise self.error
        return self.finished

    async def result(self) -> RequestOutput:
        """Wait for the end and return the finished output; raises like :meth:`outputs`."""
        while not await self.news():
            pass
        return self.snapshot()

    def _all_prompt_logprobs(self) -> tuple[SampledToken | None, ...] | None:
        if self.request.params.prompt_logprobs is None:
            return None
        return tuple(self._prompt_logprobs.get(i) for i in range(len(self.request.prompt_token_ids)))
