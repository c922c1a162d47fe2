"""All measurements in order: what there is, how much of it, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from steelyard.core.errors import ResourceError
from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe import bandwidth, disk, gpu, latency, links, peaks, threads
from steelyard.hardware.probe.reading import Reading, Scale
from steelyard.hardware.this_machine import available_memory_bytes, num_usable_cores
from steelyard.kernels.native import native_available

_FULL_S, _QUICK_S = 0.3, 0.02
_FULL_BYTES, _QUICK_BYTES = 512 * MIB, 128 * MIB
_FULL_DISK, _QUICK_DISK = 256 * MIB, 32 * MIB
# What is measured may take this part of the memory that is free.
_MEMORY_SHARE = 8
_LEAST_BYTES = 64 * KIB
# On an idle machine the median round of a steady rate is nearer to the best one than this; if not, it is tried again.
_BUSY_SPREAD = 0.25
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be measured here.

    Attributes:
        title: for people.
        measure: yields its readings.
        steady: whether an idle machine repeats its rates, so that their spread tells of other programmes.
    """

    title: str
    measure: Callable[[Scale], Iterator[Reading]]
    steady: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All readings, and in words what could not be measured.

    Attributes:
        busy: whether rates that an idle machine repeats did not repeat, however often they were measured.
    """

    readings: tuple[Reading, ...]
    notes: tuple[str, ...]
    busy: bool = False


def scale(*, quick: bool, num_threads: int | None = None) -> Scale:
    """Return how much effort to take: some 25 s in all, or some 4 s.

    Args:
        quick: take less time, with more noise.
        num_threads: the most to use; the cores that this process may use if left out.
    """
    room = available_memory_bytes() // _MEMORY_SHARE
    return Scale(
        budget_s=_QUICK_S if quick else _FULL_S,
        max_bytes=max(_LEAST_BYTES, min(_QUICK_BYTES if quick else _FULL_BYTES, _power_of_two(room))),
        disk_bytes=_QUICK_DISK if quick else _FULL_DISK,
        num_threads=num_threads or num_usable_cores(),
        points_per_octave=1 if quick else 2,
    )


def subjects(directory: Path) -> tuple[Subject, ...]:
    """Return what can be measured here; disks through a temporary file in ``directory``."""
    native = (
        Subject("memory latency", latency.measure),
        Subject("memory bandwidth", bandwidth.measure, steady=True),
        Subject("arithmetic", peaks.measure, steady=True),
        Subject("threads", threads.measure),
    )
    always = (
        Subject("matrix products", peaks.measure_matmul),
        Subject("links between processes", links.measure),
        Subject("disk", lambda scale: disk.measure(scale, directory)),
    )
    gpus = tuple(_gpu_subject(index) for index in range(torch.cuda.device_count()))
    return (*(native if native_available() else ()), *always, *gpus)


def measure_all(
    chosen: tuple[Subject, ...], effort: Scale, note: Callable[[Subject], None] = lambda subject: None
) -> Found:
    """Measure one subject after another; one that this machine cannot do becomes a note, not an error.

    A steady subject that comes out noisy is measured again, and the quietest attempt is kept.

    Args:
        chosen: from :func:`subjects`.
        effort: from :func:`scale`.
        note: told of each subject as it begins.
    """
    readings: list[Reading] = []
    notes: list[str] = []
    busy = False
    if not native_available():
        notes.append("memory, arithmetic and threads: not measured, which needs the compiled extension")
    for subject in chosen:
        note(subject)
        try:
            found = _quietest(subject, effort) if subject.steady else ()
            readings.extend(found if subject.steady else subject.measure(effort))
        except (ResourceError, OSError) as error:
            notes.append(f"{subject.title}: {error}")
            continue
        spread = _spread(found, effort)
        if spread > _BUSY_SPREAD:
            busy = True
            notes.append(f"{subject.title}: the machine was busy, the median round {spread:.0%} slower than the best")
    return Found(readings=tuple(readings), notes=tuple(notes), busy=busy)


def _quietest(subject: Subject, effort: Scale) -> tuple[Reading, ...]:
    """Return the readings of the attempt with the least spread; one that is quiet enough ends the trying."""
    best = tuple(subject.measure(effort))
    for _ in range(_ATTEMPTS - 1):
        if _spread(best, effort) <= _BUSY_SPREAD:
            break
        best = min(best, tuple(subject.measure(effort)), key=lambda readings: _spread(readings, effort))
    return best


def _spread(readings: tuple[Reading, ...], effort: Scale) -> float:
    """Return the largest spread of what all threads did together: a busy core shows there first."""
    return max((r.spread or 0.0 for r in readings if r.num_threads == effort.num_threads), default=0.0)


def _gpu_subject(index: int) -> Subject:
    def measure(effort: Scale) -> Iterator[Reading]:
        yield from gpu.measure(effort, torch.device(f"cuda:{index}"))

    return Subject(f"cuda:{index}", measure)


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to ``number``, 1 at least."""
    return 1 << max(0, number.bit_length() - 1)
