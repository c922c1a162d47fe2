"""What it costs to hand work to the thread pool: to spinning threads, to sleeping ones, and a barrier between them."""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.core.clock import Stopwatch, wall_s
from steelyard.hardware.probe.reading import Reading, Scale, Timing, Unit, best_of
from steelyard.kernels.native import NativeThreadPool
from steelyard.kernels.probe import barriers, empty_jobs
from steelyard.kernels.threads import thread_pool

SUBJECT = "threads"
HOT, ASLEEP, BARRIER = "job, threads spinning", "job, threads asleep", "barrier"
_JOBS = 100
_BARRIERS = 1000
# Longer than the pool's threads spin before they sleep.
_ASLEEP_AFTER_S = 2e-3


def measure(scale: Scale) -> Iterator[Reading]:
    """Yield the three latencies for each number of threads."""
    for num_threads in scale.thread_counts:
        pool = thread_pool(num_threads)
        hot = best_of(lambda: empty_jobs(pool, _JOBS), scale.budget_s / 2)  # noqa: B023 - called at once
        yield _reading(HOT, hot, _JOBS, num_threads)
        yield _reading(ASLEEP, _asleep(pool, scale.budget_s), 1, num_threads)
        meeting = best_of(lambda: barriers(pool, _BARRIERS), scale.budget_s / 2)  # noqa: B023 - called at once
        yield _reading(BARRIER, meeting, _BARRIERS, num_threads)


def _asleep(pool: NativeThreadPool, budget_s: float) -> Timing:
    """Time single jobs, each after a pause in which the pool's threads have gone to sleep."""
    seconds: list[float] = []
    end_s = wall_s() + budget_s
    while len(seconds) < 10 or wall_s() < end_s:
        awake_s = wall_s()
        while wall_s() < awake_s + _ASLEEP_AFTER_S:
            pass
        with Stopwatch() as watch:
            empty_jobs(pool, 1)
        seconds.append(watch.elapsed_s)
    seconds.sort()
    return Timing(seconds[0], seconds[len(seconds) // 2])


def _reading(name: str, timing: Timing, count: int, num_threads: int) -> Reading:
    return Reading(
        subject=SUBJECT,
        name=name,
        value=timing.best_s / count,
        unit=Unit.SECONDS,
        spread=timing.spread,
        num_threads=num_threads,
    )
