"""Answers that grow whether or not their client is there: :class:`BackgroundDesk` and what it hands out.

A client asks, goes away, and comes back for the answer, or for the events since the last one that it saw. All is in
memory: an answer ends with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steelyard.serve.errors import ApiError
from steelyard.serve.exchange import Asking, Dialect, while_connected
from steelyard.serve.generation import Generation
from steelyard.serve.sse import ServerEvent, event_stream

MAX_GROWING = 256
MAX_ENDED_EVENTS = 100_000


class BackgroundAnswer:
    """One answer: its latest form, and all events that told of it."""

    def __init__(self) -> None:
        self.latest: Mapping[str, Any] = {}
        self.ended = False
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
        self.ended = True
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
        max_ended_events: of answers that have ended, together; the oldest are forgotten.
    """

    def __init__(self, max_growing: int = MAX_GROWING, max_ended_events: int = MAX_ENDED_EVENTS) -> None:
        self._max_growing, self._max_ended_events = max_growing, max_ended_events
        self._answers: dict[tuple[str, str], BackgroundAnswer] = {}  # the oldest first
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
        return self._answers.get((caller, id))

    async def remove(self, caller: str, id: str) -> bool:
        """Forget a caller's answer, after its end if it grows; return whether there was one."""
        found = self._answers.pop((caller, id), None)
        if found is not None:
            await found.cancel()
        return found is not None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        ended = {key: answer.num_events for key, answer in self._answers.items() if answer.ended}
        num_events = sum(ended.values())
        for key, count in ended.items():
            if num_events <= self._max_ended_events:
                break
            del self._answers[key]
            num_events -= count


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
