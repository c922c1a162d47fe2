"""Time, in the only room that may read it.

Engine, front door and simulator tell the time by the running asyncio event loop: on an ordinary loop that is the
machine's monotonic clock, on :class:`steelyard.sim.virtual.VirtualLoop` it is virtual time that jumps to the next
event. *Which loop runs decides which clock rules*; no component is told the difference.

Code that has no loop (the command line, benchmarks) measures elapsed real time with :func:`wall_s` and
:class:`Stopwatch`.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from types import TracebackType


def now_s() -> float:
    """Return the running event loop's time, seconds from an arbitrary origin.

    Raises:
        RuntimeError: if no event loop is running in this thread.
    """
    return asyncio.get_running_loop().time()


async def sleep_s(seconds: float) -> None:
    """Suspend the calling task for ``seconds`` of the running loop's time."""
    await asyncio.sleep(seconds)


def wall_s() -> float:
    """Return the machine's monotonic clock, seconds from an arbitrary origin."""
    return time.perf_counter()


def process_cpu_s() -> float:
    """Return the CPU seconds that all threads of this process have used."""
    return time.process_time()


def unix_s() -> float:
    """Return the date in seconds since 1970, for stamping what others keep."""
    return time.time()


def utc_timestamp() -> str:
    """Return the date and time in UTC as ``YYYY-MM-DDTHH:MM:SSZ``, for stamping results."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def local_datetime() -> datetime:
    """Return the date and time of day here, with its time zone, for what shows a person today's date."""
    return datetime.now().astimezone()


class Stopwatch:
    """Measure real elapsed seconds around a block: ``with Stopwatch() as watch: …; watch.elapsed_s``."""

    __slots__ = ("_start_s", "elapsed_s")

    def __init__(self) -> None:
        self._start_s = 0.0
        self.elapsed_s = 0.0

    def __enter__(self) -> Stopwatch:
        self._start_s = wall_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.elapsed_s = wall_s() - self._start_s
