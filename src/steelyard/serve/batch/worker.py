"""Carries batches from their beginning to their end: :class:`Worker`.

Validate → send every waiting line → finalise. Where a batch stands is in the store alone, so the worker that comes
after a crash goes on where this one was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from steelyard.core.clock import sleep_s
from steelyard.serve.batch.calls import BlockingCalls
from steelyard.serve.batch.order import LineOrder
from steelyard.serve.batch.store import Store
from steelyard.serve.batch.types import Answer, Batch, BatchStatus, Fault, Line

logger = logging.getLogger("steelyard.serve")

_WINDOW = 1024  # lines that are ordered at once, and held in memory
_MAX_BATCHES = 8  # at once
_LOOK_S = 0.05
_PATIENCE_S = 5.0  # after a failure of the disk
_LONGEST_WAIT_S = 60.0

OnAnswers = Callable[[Batch, Sequence[Answer]], None]


class Sender(Protocol):
    """Has lines answered."""

    async def answer(self, batch: Batch, line: Line) -> Answer:
        """Return what a line comes to."""
        ...


class Paper(Protocol):
    """Where lines come from and answers go. Its methods block, and may be called again after a crash."""

    def faults(self, batch: Batch) -> Sequence[Fault]:
        """Return what is wrong with the input."""
        ...

    def lines(self, batch: Batch) -> Iterable[Line]:
        """Return the lines of an input without faults."""
        ...

    def finalise(self, batch: Batch, at: int) -> None:
        """Write what the lines came to, and end the batch."""
        ...


class Seats:
    """How many lines may be on their way at once, and whose the next is: of whoever waits, who has the fewest seats.

    Args:
        num_seats: lines at once.
        is_busy: whether people are waiting, who go first.
    """

    def __init__(self, num_seats: int, is_busy: Callable[[], bool]) -> None:
        self._num_free, self._is_busy = num_seats, is_busy
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, owner: str) -> None:
        """Wait for a seat, and until no people wait."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._fill()
        try:
            await turn
            while self._is_busy():
                await sleep_s(_LOOK_S)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(owner)
            raise

    def leave(self, owner: str) -> None:
        """Give a seat back."""
        self._taken[owner] -= 1
        self._num_free += 1
        self._fill()

    def _fill(self) -> None:
        """Give free seats to those who wait."""
        while self._num_free and (owner := self._next_owner()) is not None:
            self._waiting[owner].popleft().set_result(None)
            self._taken[owner] += 1
            self._num_free -= 1

    def _next_owner(self) -> str | None:
        for owner, turns in list(self._waiting.items()):
            while turns and turns[0].done():  # cancelled
                turns.popleft()
            if not turns:
                del self._waiting[owner]
        return min(self._waiting, key=self._taken.__getitem__, default=None)


class Worker:
    """Works on batches within one event loop.

    Args:
        store: what there is to do.
        calls: the thread that may use the store.
        sender: has lines answered.
        paper: reads inputs and writes outputs.
        seats: bounds what is on its way.
        order: of a window of lines.
        now: returns the date, seconds since 1970.
        on_answers: called with a batch and what has been committed of it.
    """

    def __init__(
        self,
        store: Store,
        calls: BlockingCalls,
        sender: Sender,
        paper: Paper,
        seats: Seats,
        *,
        order: LineOrder,
        now: Callable[[], int],
        on_answers: OnAnswers = lambda batch, answers: None,
    ) -> None:
        self._store, self._calls, self._sender, self._paper, self._seats = store, calls, sender, paper, seats
        self._order, self._now, self._on_answers = order, now, on_answers
        self._news = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Carry all batches, for ever; new ones are seen when :meth:`look` is called."""
        carried: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                carried = {name: task for name, task in carried.items() if not task.done()}
                for name in await self._calls(self._store.unfinished, _MAX_BATCHES):
                    if name not in carried:
                        carried[name] = group.create_task(self._carry_on(name))
                await self._news.wait()

    def look(self) -> None:
        """Look at the store again: there is a new batch, or room for the next."""
        self._news.set()

    def recall(self, id: str) -> None:
        """Send no more lines of a batch that has been cancelled; those on their way are computed no further."""
        if id in self._sending:
            self._sending[id].cancel()

    async def carry(self, id: str) -> None:
        """Carry one batch from where it is to its end.

        Raises:
            SteelyardError: if a file cannot be read or written.
        """
        batch = await self._batch(id)
        if batch.status is BatchStatus.VALIDATING:
            await self._calls(self._validate, batch)
            batch = await self._batch(id)
        if batch.status is BatchStatus.IN_PROGRESS:
            await self._answer_all(batch)
            begun = (BatchStatus.IN_PROGRESS,)
            await self._calls(self._store.move, id, BatchStatus.FINALIZING, self._now(), only_from=begun)
            batch = await self._batch(id)
        if batch.status in (BatchStatus.FINALIZING, BatchStatus.CANCELLING):
            await self._calls(self._paper.finalise, batch, self._now())

    async def _carry_on(self, id: str) -> None:
        """Carry a batch in spite of failures, which are logged."""
        while True:
            try:
                await self.carry(id)
                break
            except Exception:
                logger.exception("the batch %s is held up", id)
                await sleep_s(_PATIENCE_S)
        asyncio.get_running_loop().call_soon(self.look)  # once this task is done

    async def _batch(self, id: str) -> Batch:
        batch = await self._calls(self._store.batch, id)
        assert batch is not None, "no batch is ever deleted"
        return batch

    def _validate(self, batch: Batch) -> None:
        faults = self._paper.faults(batch)
        if faults:
            self._store.fail(batch.id, faults, self._now())
        else:
            self._store.begin(batch.id, self._paper.lines(batch), self._now())

    async def _answer_all(self, batch: Batch) -> None:
        """Answer all lines, or as many as there is time for, or until the batch is recalled."""
        timeout_s = None if batch.expires_at is None else max(0, batch.expires_at - self._now())
        sending = asyncio.create_task(self._send_all(batch))
        self._sending[batch.id] = sending
        try:
            await asyncio.wait({sending}, timeout=timeout_s)
        finally:
            del self._sending[batch.id]
            sending.cancel()
            await asyncio.wait({sending})
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, batch: Batch) -> None:
        """Send every line that waits, a window at a time in the chosen order; none if the batch was recalled before."""
        if (await self._batch(batch.id)).status is not BatchStatus.IN_PROGRESS:
            return
        commits = _Commits(self._store, self._calls, batch, self._on_answers)
        async with asyncio.TaskGroup() as group:
            async for line in self._ordered(batch):
                await self._seats.take(batch.owner)
                group.create_task(self._answer(batch, line, commits))

    async def _ordered(self, batch: Batch) -> AsyncIterator[Line]:
        last = 0
        while window := await self._calls(self._store.waiting, batch.id, after=last, limit=_WINDOW):
            for line in self._order(window):
                yield line
            last = window[-1].number

    async def _answer(self, batch: Batch, line: Line, commits: _Commits) -> None:
        try:
            answer = await self._sender.answer(batch, line)
        finally:
            self._seats.leave(batch.owner)
        await commits.add(answer)


class _Commits:
    """Answers of one batch on their way into the store: those that come while it writes go into one transaction."""

    def __init__(self, store: Store, calls: BlockingCalls, batch: Batch, on_answers: OnAnswers) -> None:
        self._store, self._calls, self._batch, self._on_answers = store, calls, batch, on_answers
        self._pending: list[Answer] = []
        self._writing = asyncio.Lock()

    async def add(self, answer: Answer) -> None:
        """Return once the answer is committed, by whomever.

        Raises:
            Exception: what the store raises; the lines are still waiting there.
        """
        self._pending.append(answer)
        async with self._writing:
            taken, self._pending = self._pending, []
            if taken:
                await self._calls(self._store.finish, self._batch.id, taken)
                self._on_answers(self._batch, taken)
