"""Latency of dependent loads by size, and the caches that its steps show.

A chain visits every cache line of a buffer once, in random order, so nothing can be fetched ahead. While the buffer
fits a cache, each load takes that cache's latency; past its capacity the curve climbs to the next (Saavedra and Smith,
IEEE Transactions on Computers 44(10), 1995).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe.buffers import huge_buffer
from steelyard.hardware.probe.reading import Reading, Scale, Unit, best_of, repeats_for, sizes
from steelyard.kernels.probe import chase, random_cycle

SUBJECT = "latency"
_SMALLEST = 4 * KIB
_LARGEST = 512 * MIB
_LINE_ELEMENTS = 8  # 64 bytes of int64
_WARM_BYTES = 64 * MIB  # beyond it a buffer is in no cache anyway
_ROUND_S = 1e-3
_SEED = 1
# A plateau ends where a load takes so much longer than at its beginning, …
_STEP = 1.3
# … the next begins where the climb from one size to the next is less steep than this, …
_LEVEL = 1.15
# … and it is a level of its own if a load takes so much longer than in the one before.
_NEXT_LEVEL = 2.0
_SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIXES = {"K": KIB, "M": MIB}


@dataclass(frozen=True, slots=True)
class Plateau:
    """Sizes up to ``capacity_bytes`` whose loads take about ``latency_s``."""

    capacity_bytes: int
    latency_s: float


def measure(scale: Scale) -> Iterator[Reading]:
    """Yield the latency at each size; small ones are measured twice, as other programmes push them out of caches."""
    buffer = huge_buffer(min(_LARGEST, scale.max_bytes), torch.int64)
    all_sizes = list(sizes(_SMALLEST, buffer.nbytes, scale.points_per_octave))
    first = [_latency(buffer[: size // 8], scale.budget_s / 4) for size in all_sizes]
    for reading in first:
        size = reading.size_bytes or 0
        again = _latency(buffer[: size // 8], scale.budget_s / 4) if size <= _WARM_BYTES else reading
        yield min(reading, again, key=lambda one: one.value)


def _latency(chain: torch.Tensor, budget_s: float) -> Reading:
    random_cycle(chain, _LINE_ELEMENTS, _SEED)
    here = chase(chain, 0, len(chain) // _LINE_ELEMENTS if chain.nbytes <= _WARM_BYTES else 1)

    def walk(steps: int) -> None:
        nonlocal here  # going on where the last walk ended: its first lines would still be in a cache
        here = chase(chain, here, steps)

    steps = repeats_for(walk, _ROUND_S)
    timing = best_of(lambda: walk(steps), budget_s)
    return Reading(
        subject=SUBJECT,
        name="load",
        value=timing.best_s / steps,
        unit=Unit.SECONDS,
        spread=timing.spread,
        num_threads=1,
        size_bytes=chain.nbytes,
    )


def plateaus(curve: Sequence[tuple[int, float]]) -> tuple[Plateau, ...]:
    """Return the levels of a curve of ``(size in bytes, seconds per load)``, rising in size; the last is the memory.

    A larger buffer is never faster, so a point above a later one is noise and is lowered to it. A level's latency is
    that of its middle.
    """
    if not curve:
        return ()
    sizes_bytes, seconds = [size for size, _ in curve], _not_above_later([value for _, value in curve])
    found: list[Plateau] = []
    start = 0
    while start < len(seconds):
        end = next((i for i in range(start, len(seconds)) if seconds[i] > _STEP * seconds[start]), len(seconds))
        middle = seconds[(start + end - 1) // 2]
        if found and middle < _NEXT_LEVEL * found[-1].latency_s:
            found[-1] = Plateau(sizes_bytes[end - 1], found[-1].latency_s)
        else:
            found.append(Plateau(sizes_bytes[end - 1], middle))
        start = _next_plateau(seconds, end)
    return tuple(found)


def stated_caches(root: Path = _SYSFS) -> dict[int, int]:
    """Return the capacities that the operating system states, bytes by level; empty where it states none."""
    found = {}
    for index in sorted(root.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level.isdigit() and size[:-1].isdigit() and size[-1] in _SUFFIXES:
            found[int(level)] = int(size[:-1]) * _SUFFIXES[size[-1]]
    return found


def _not_above_later(seconds: list[float]) -> list[float]:
    least, result = float("inf"), []
    for value in reversed(seconds):
        least = min(least, value)
        result.append(least)
    return result[::-1]


def _next_plateau(seconds: list[float], end: int) -> int:
    """Return where the climb that begins at ``end`` gets shallow."""
    while end + 1 < len(seconds) and seconds[end + 1] > _LEVEL * seconds[end]:
        end += 1
    return end
