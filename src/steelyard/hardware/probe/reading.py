"""One measured number, and how a time is taken: the best of many short rounds, with the spread beside it.

Other programmes only ever make a round slower, so the fastest one says most about the machine; how far the median lies
above it says how much to trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from statistics import median

from steelyard.core.clock import Stopwatch, wall_s

_MIN_ROUNDS = 5
_MAX_ROUNDS = 1000
_TRIES = 3
_MAX_REPEATS = 1 << 28
# Below what a clock can tell; keeps rates finite.
_LEAST_S = 1e-9


class Unit(Enum):
    """What a reading counts."""

    BYTES_PER_S = "B/s"
    FLOP_PER_S = "flop/s"
    OPS_PER_S = "1/s"
    SECONDS = "s"
    BYTES = "B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measured number.

    Attributes:
        subject: a key of :data:`steelyard.hardware.probe.run.SUBJECTS`.
        name: of what was measured within the subject.
        value: the best round's, in ``unit``.
        spread: how far the median round was from the best, as a share of the best; ``None`` if there was one round.
        num_threads: how many worked; ``None`` where that is no question.
        size_bytes: of the memory or block worked on.
        depth: requests under way at once.
    """

    subject: str
    name: str
    value: float
    unit: Unit
    spread: float | None = None
    num_threads: int | None = None
    size_bytes: int | None = None
    depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much effort a probe may take.

    Attributes:
        budget_s: for one number, about.
        max_bytes: of memory for one buffer.
        disk_bytes: of the file that disks are measured with.
        num_threads: cores to use at most.
        points_per_octave: sizes measured between one power of two and the next.
    """

    budget_s: float
    max_bytes: int
    disk_bytes: int
    num_threads: int
    points_per_octave: int = 2

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """1, 2, 4, … and all."""
        powers = [1 << power for power in range(self.num_threads.bit_length()) if 1 << power < self.num_threads]
        return (*powers, self.num_threads)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the best and of the median round."""

    best_s: float
    median_s: float

    @property
    def spread(self) -> float:
        """How far the median is above the best, as a share of the best."""
        return self.median_s / self.best_s - 1


def best_of(work: Callable[[], object], budget_s: float) -> Timing:
    """Run ``work`` again and again for about ``budget_s``, at least five times after one that warms up."""
    work()
    seconds: list[float] = []
    end_s = wall_s() + budget_s
    while len(seconds) < _MIN_ROUNDS or (wall_s() < end_s and len(seconds) < _MAX_ROUNDS):
        with Stopwatch() as watch:
            work()
        seconds.append(watch.elapsed_s)
    return Timing(max(min(seconds), _LEAST_S), max(median(seconds), _LEAST_S))


def repeats_for(work: Callable[[int], object], target_s: float) -> int:
    """Return how many repeats let ``work(repeats)`` take about ``target_s``, whatever other programmes do meanwhile."""
    repeats = 1
    while repeats < _MAX_REPEATS:
        elapsed_s = min(_elapsed_s(work, repeats) for _ in range(_TRIES))
        if elapsed_s >= target_s:
            break
        repeats *= 2 if elapsed_s > target_s / 8 else 8
    return repeats


def _elapsed_s(work: Callable[[int], object], repeats: int) -> float:
    with Stopwatch() as watch:
        work(repeats)
    return watch.elapsed_s


def sizes(smallest: int, largest: int, points_per_octave: int) -> Iterator[int]:
    """Yield sizes from ``smallest`` to ``largest``: each power of two, and evenly between it and the next."""
    octave = smallest
    while octave <= largest:
        for point in range(points_per_octave):
            size = octave * (points_per_octave + point) // points_per_octave
            if size <= largest:
                yield size
        octave *= 2


def find(readings: tuple[Reading, ...], subject: str, name: str, **coordinates: int) -> list[Reading]:
    """Return the readings of this subject and name at these coordinates (``num_threads=2`` …)."""
    return [
        reading
        for reading in readings
        if reading.subject == subject
        and reading.name == name
        and all(getattr(reading, key) == value for key, value in coordinates.items())
    ]


def largest(readings: list[Reading]) -> float | None:
    """Return the largest value, ``None`` if there is none."""
    return max((reading.value for reading in readings), default=None)
