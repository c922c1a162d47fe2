"""Answers that grow whether or not their client is there: :class:`BackgroundDesk` and what it hands out.

A client asks, goes away, and comes back for the answer, or for the events since the last one that it saw. All is in
memory: an answer ends with the process. Those that have ended are kept for a while, and within a bound of bytes for all
callers together and one for each; the oldest go first. One that grows is never forgotten.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steelyard.core.clock import now_s
from steelyard.serve.errors import ApiError
from steelyard.serve.exchange import Asking, Dialect, while_connected
from steelyard.serve.generation import Generation
from steelyard.serve.sse import ServerEvent, event_stream

MAX_GROWING = 256
KEPT_S = 3600.0
KEPT_BYTES, KEPT_BYTES_OF_CALLER = 256 << 20, 64 << 20

_Key = tuple[str, str]  # the caller, and what the answer is called


class BackgroundAnswer:
    """One answer: its latest form, and all events that told of it.

    Attributes:
        latest: form, as the last event with a response told it.
        ended: whether no event will follow.
        ended_s: when that was, event-loop seconds; infinite while it grows.
        num_bytes: of all events on the wire, once it has ended.
        generation: that it grows by; ``None`` before and after.
    """

    def __init__(self) -> None:
        self.latest: Mapping[str, Any] = {}
        self.ended = False
        self.ended_s = math.inf
        self.num_bytes = 0
        self.generation: Generation | None = None
        self._events: list[ServerEvent] = []
        self._news = asyncio.Event()

    @property
    def num_events(self) -> int:
        """Events so far."""
        return len(self._events)

    def add(self, event: ServerEvent) -> None:
        """Keep an event; one with a response is the answer's latest form."""
        self._events.append(event)
        self.latest = event.data.get("response", self.latest)
        self._tell()

    def end(self) -> None:
        """Say that no event will follow."""
        self.ended, self.ended_s = True, now_s()
        self.num_bytes = sum(len(event.encode()) for event in self._events)
        self._tell()

    async def cancel(self) -> None:
        """Let it end at its engine's next step, unless it has ended; returns after its end."""
        if self.generation is not None:
            self.generation.cancel()
        async for _ in self.events_after(self.num_events - 1):
            pass

    async def events_after(self, number: int) -> AsyncIterator[ServerEvent]:
        """Yield the events of higher numbers, those to come as they come."""
        position = number + 1
        while True:
            news = self._news
            for event in self._events[position:]:
                yield event
                position += 1
            if self.ended and position >= len(self._events):
                return
            if news is self._news:
                await news.wait()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class BackgroundDesk:
    """Starts answers and keeps them, each for its own caller.

    Args:
        max_growing: answers that may grow at once.
        kept_s: how long an answer is kept after its end.
        kept_bytes: of answers that have ended, together.
        kept_bytes_of_caller: of one caller's.
    """

    def __init__(
        self,
        max_growing: int = MAX_GROWING,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
        kept_bytes_of_caller: int = KEPT_BYTES_OF_CALLER,
    ) -> None:
        self._max_growing, self._kept_s = max_growing, kept_s
        self._kept_bytes, self._kept_bytes_of_caller = kept_bytes, kept_bytes_of_caller
        self._answers: dict[_Key, BackgroundAnswer] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, caller: str, id: str, asking: Asking, dialect: Dialect, headers: Headers) -> BackgroundAnswer:
        """Start an answer; returns once it is in an engine.

        Raises:
            ApiError: 429 if too many grow, and whatever refuses the request before it is in an engine.
        """
        if len(self._tasks) >= self._max_growing:
            message = f"background: {len(self._tasks)} answers grow already. Wait for some, or cancel them."
            raise ApiError(429, message, param="background", code="rate_limit_exceeded")
        answer, started = BackgroundAnswer(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(_grow(answer, started, caller, asking, dialect, headers))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._answers[caller, id] = answer
        try:
            await started
        except BaseException:
            self._answers.pop((caller, id), None)
            raise
        return answer

    def get(self, caller: str, id: str) -> BackgroundAnswer | None:
        """Return a caller's answer, if there is one of this name."""
        self._forget_old()
        return self._answers.get((caller, id))

    async def remove(self, caller: str, id: str) -> bool:
        """Forget a caller's answer, after its end if it grows; return whether there was one."""
        found = self._answers.pop((caller, id), None)
        if found is not None:
            await found.cancel()
        return found is not None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._forget_old()

    def _forget_old(self) -> None:
        """Forget answers that ended long ago, then the oldest of callers that keep too much, then the oldest of all."""
        self._forget([key for key, one in self._answers.items() if one.ended_s + self._kept_s <= now_s()])
        ended = [(key, one.num_bytes) for key, one in self._answers.items() if one.ended]
        for caller in {caller for (caller, _), _ in ended}:
            self._forget(_oldest([each for each in ended if each[0][0] == caller], self._kept_bytes_of_caller))
        self._forget(_oldest([each for each in ended if each[0] in self._answers], self._kept_bytes))

    def _forget(self, keys: Sequence[_Key]) -> None:
        for key in keys:
            del self._answers[key]


def _oldest(sizes: Sequence[tuple[_Key, int]], kept_bytes: int) -> list[_Key]:
    """Return the first of these, as many as must go so that the others keep within a bound."""
    excess, gone = sum(size for _, size in sizes) - kept_bytes, []
    for key, size in sizes:
        if excess <= 0:
            break
        gone.append(key)
        excess -= size
    return gone


async def _grow(
    answer: BackgroundAnswer,
    started: asyncio.Future[None],
    caller: str,
    asking: Asking,
    dialect: Dialect,
    headers: Headers,
) -> None:
    try:
        async with asking.generation(caller, headers) as generation:
            answer.generation = generation
            async for event in dialect.events(generation):
                answer.add(event)
                if not started.done():
                    started.set_result(None)
    except Exception as error:
        if started.done():
            raise
        started.set_exception(error)
    finally:
        answer.generation = None
        answer.end()
        started.cancel()  # nothing, unless the task was cancelled before it began


class Replay(Response):
    """A stream of an answer's events, those to come as they come. The answer does not mind if the client goes away.

    Args:
        answer: grows, or has ended.
        after: the number of the last event that the client has; −1 for none.
        ping_interval_s: of silence, after which the stream gets a comment.
    """

    def __init__(self, answer: BackgroundAnswer, after: int, ping_interval_s: float) -> None:
        self.background = None
        self.status_code = 200
        self._answer, self._after, self._ping_interval_s = answer, after, ping_interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the answer has ended or the client has gone."""
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with event_stream(send, ping_interval_s=self._ping_interval_s) as writer:
            async for event in self._answer.events_after(self._after):
                await writer.write(event)
