"""An asyncio event loop whose time is virtual: it jumps to the next scheduled event instead of sleeping.

Engine, front door and policies tell the time by the running loop (:mod:`steelyard.core.clock`), so the same objects
run on the machine's clock under an ordinary loop and on virtual time here. A run is deterministic: callbacks run in
the order in which they became ready, timers in the order of (time, rank, insertion), sets of tasks (``TaskGroup``,
``asyncio.all_tasks``) iterate in an order that does not depend on memory addresses. Sets of bare futures do.

Asyncio's timers have rank 0. One of a higher rank (:meth:`VirtualLoop.call_at_rank`) runs when everything of its time
and of lower ranks, with all that came of it, is over. So what happens at one moment has an order that does not depend
on who began to wait first: a machine that foresees a hundred steps ends the last of them exactly when one does that
takes them one by one.

Virtual time is a float of seconds from 0. The clock is set to exactly the time that a timer names, never advanced by a
difference, so nothing drifts; but ``sleep(0.1)`` ten times ends at 0.1 added up ten times, 0.9999999999999999. Times
near t are ``math.ulp(t)`` apart (1.2e-10 s at 1e6 s): a shorter delay fires without moving the clock.

Not here: sockets, pipes, signals, subprocesses (their methods raise what asyncio raises where they are unsupported)
and other threads: one that calls ``call_soon_threadsafe`` is served, but nothing waits for it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from steelyard.core.errors import ParamsError, SteelyardError

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

LAST_RANK = 1 << 30
"""Of what looks on: it sees a moment when all else is over."""

_MIN_CANCELLED = 64
_NUM_NAMED_TASKS = 5


class DeadlockError(SteelyardError, RuntimeError):
    """Everything waits for something that nothing left in the loop can bring about."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that never waits: when nothing is ready, time jumps to the earliest timer.

    Of asyncio's own loop this replaces the timers and the single turn (``_run_once``); futures, tasks, ``call_soon``,
    exception handling and the shutdown of asynchronous generators are asyncio's. Running out of events before the
    awaited future is done raises :class:`DeadlockError` from ``run_until_complete`` or ``run_forever``.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._now_rank = 0
        self._timers: list[tuple[float, int, int, asyncio.TimerHandle]] = []
        self._num_cancelled = 0
        self._sequence = itertools.count()
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Return the virtual time, seconds; 0 when the loop is made."""
        return self._now_s

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run ``callback(*args)`` at virtual time ``when``, after all timers of that time that were there before.

        A ``when`` in the past runs on the loop's next turn; an infinite one never does.

        Raises:
            ParamsError: if ``when`` is not a number (NaN).
        """
        return self._add_timer(when, 0, callback, args, context)

    def call_at_rank(self, when: float, rank: int, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Run ``callback()`` at time ``when``, after all that happens then at lower ranks; see :meth:`call_at`."""
        return self._add_timer(when, rank, callback, (), None)

    def is_past(self, when: float, rank: int) -> bool:
        """Return whether a timer of that time and rank would have run by now, or is running."""
        return (when, rank) <= (self._now_s, self._now_rank)

    def _add_timer(
        self, when: float, rank: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        if math.isnan(when):
            raise ParamsError("the time is not a number (NaN)", field="when", remedy="Give a finite time in seconds")
        self._check_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # asyncio's mark of a timer that waits in a heap
        heapq.heappush(self._timers, (when, rank, next(self._sequence), timer))
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run ``callback(*args)`` after ``delay`` seconds of virtual time; see :meth:`call_at`."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def run_in_executor(self, executor: object, func: Callable[[*_Args], _T], *args: *_Args) -> asyncio.Future[_T]:
        """Call ``func(*args)`` here and now, in no virtual time, and return a future that is done already.

        A thread would finish at a moment that no seed decides. ``executor`` is ignored. ``asyncio.to_thread`` comes
        through here too.
        """
        self._check_closed()
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Forget everything scheduled; closing twice is harmless."""
        super().close()
        self._timers.clear()

    def _run_once(self) -> None:
        """Take one turn: find what is due, jumping if nothing is, and run what is ready by now."""
        self._drop_cancelled()
        if not self._ready and not self._stopping:
            self._jump()
        self._release_due()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _jump(self) -> None:
        when = self._timers[0][0] if self._timers else math.inf
        if when == math.inf:
            raise _deadlock(self)
        if when > self._now_s:
            self._now_s, self._now_rank = when, 0

    def _release_due(self) -> None:
        """Make timers ready that are due: all of rank 0, or one of a higher rank if nothing else is ready."""
        while self._timers and self._timers[0][0] <= self._now_s:
            rank, timer = self._timers[0][1], self._timers[0][3]
            if rank and self._ready:
                return
            heapq.heappop(self._timers)
            if timer.cancelled():
                self._num_cancelled -= 1
                continue
            timer._scheduled = False  # type: ignore[attr-defined]
            self._now_rank = max(self._now_rank, rank)
            self._ready.append(timer)

    def _drop_cancelled(self) -> None:
        """Take cancelled timers off the front, and out of the middle once they are most of the heap."""
        if self._num_cancelled > max(_MIN_CANCELLED, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if not entry[3].cancelled()]
            heapq.heapify(self._timers)
            self._num_cancelled = 0
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
            self._num_cancelled -= 1

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Count a timer that is cancelled while it waits; asyncio calls this before marking it."""
        self._num_cancelled += handle._scheduled  # type: ignore[attr-defined]

    def _check_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def _write_to_self(self) -> None:
        """Nothing to wake up: the loop never sleeps."""


class _OrderedTask(asyncio.Task[_T]):
    """A task that hashes by its order of creation, so that sets of tasks iterate alike in every run."""

    def __init__(self, coro: Coroutine[Any, Any, _T], *, ordinal: int, **options: Any) -> None:
        self._ordinal = ordinal  # before asyncio registers the task in a set
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._ordinal


async def until(when: float, rank: int = 0) -> None:
    """Suspend the calling task to virtual time ``when``, exactly; see :meth:`VirtualLoop.call_at_rank`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this needs virtual time"
    arrival: asyncio.Future[None] = loop.create_future()
    loop.call_at_rank(when, rank, lambda: resolve(arrival))
    await arrival


def resolve(future: asyncio.Future[None]) -> None:
    """Let go on whoever waits for ``future``, unless it was cancelled."""
    if not future.done():
        future.set_result(None)


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """Run ``main`` on a new :class:`VirtualLoop` that starts at time 0, and return its result.

    As with ``asyncio.run``, tasks still alive at the end are cancelled and asynchronous generators closed, on virtual
    time, whether ``main`` returned or raised.

    Raises:
        DeadlockError: if ``main`` (or a task being cancelled at the end) waits for something that cannot happen.
        RuntimeError: if an event loop is running in this thread already.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run_virtual cannot be called while an event loop is running in this thread")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    assert isinstance(loop, VirtualLoop)
    return _OrderedTask(coro, loop=loop, ordinal=next(loop._sequence), **options)


def _deadlock(loop: VirtualLoop) -> DeadlockError:
    names = [task.get_name() for task in sorted(asyncio.all_tasks(loop), key=hash)]
    more = f" and {len(names) - _NUM_NAMED_TASKS} more" if len(names) > _NUM_NAMED_TASKS else ""
    waiting = ", ".join(names[:_NUM_NAMED_TASKS]) + more if names else "no task"
    return DeadlockError(
        f"at {loop.time():g} s nothing is ready and nothing is scheduled, yet these wait: {waiting}",
        field="virtual time",
        remedy="Look for a lock, queue or event that nobody will release, fill or set",
    )
