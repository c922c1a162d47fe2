"""Disk reading and writing past the operating system's cache (``O_DIRECT``), by block size and requests under way.

Each request in flight is a thread of its own; Python's share of a request is some 10 µs, so beyond about 100,000
requests a second the numbers are Python's. Where the file system refuses ``O_DIRECT`` (tmpfs, some overlays) nothing is
measured: a number from the page cache would be the memory's. Not on systems without ``O_DIRECT``.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from steelyard.core.clock import Stopwatch, wall_s
from steelyard.core.errors import StorageError
from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe.reading import Reading, Scale, Unit
from steelyard.hardware.this_machine import disk_free_bytes

SUBJECT = "disk"
SMALL_BLOCK, LARGE_BLOCK = 4 * KIB, MIB
DEPTHS = (1, 4, 16)
_FREE_SHARE = 20  # at most a twentieth of what is free
_LEAST_BYTES = 16 * MIB
_SEED = 1
# What a file system answers that knows no direct access.
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
# Newer kernels accept direct access to files that lie in memory anyway.
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_MOUNTS = Path("/proc/self/mountinfo")

Operation = Literal["read", "write"]
OPERATIONS: tuple[Operation, ...] = ("write", "read")


class DirectAccessRefusedError(StorageError):
    """The file system does not let files be read past the operating system's cache."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file opened for direct access."""

    descriptor: int
    num_bytes: int


def measure(scale: Scale, directory: Path) -> Iterator[Reading]:
    """Yield rates and latencies of a temporary file in ``directory``, which is removed whatever happens.

    Raises:
        DirectAccessRefusedError: if the file system refuses direct access.
        StorageError: if the file cannot be written or there is no room for it.
    """
    if file_system(directory) in _IN_MEMORY:
        raise _refused(directory)
    num_bytes = min(scale.disk_bytes, disk_free_bytes(directory) // _FREE_SHARE) // LARGE_BLOCK * LARGE_BLOCK
    if num_bytes < _LEAST_BYTES:
        raise StorageError("too little is free to measure it", field=str(directory), remedy="Make room")
    with _temporary_file(directory, num_bytes) as file:
        for operation in OPERATIONS:
            for block in (LARGE_BLOCK, SMALL_BLOCK):
                for depth in DEPTHS:
                    yield from _readings(file, operation, block, depth, scale.budget_s)


def file_system(directory: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of file system that ``directory`` lies on, such as ``ext4``; ``None`` where nobody says."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    here, best, kind = directory.absolute().resolve(), -1, None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) > 4 and tail and here.is_relative_to(fields[4]) and len(fields[4]) >= best:
            best, kind = len(fields[4]), tail[0]
    return kind


@contextmanager
def _temporary_file(directory: Path, num_bytes: int) -> Iterator[_File]:
    """Make a file filled with data, without a name where the system can, open for direct access."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkstemp(prefix=".steelyard-probe-", dir=directory)
    except OSError as error:
        raise _storage_error(directory, error) from error
    os.close(name[0])
    try:
        file = _File(_open(Path(name[1])), num_bytes)
    finally:
        os.unlink(name[1])  # the descriptor keeps the data until it is closed
    try:
        _fill(file, directory)
        yield file
    finally:
        os.close(file.descriptor)


def _open(path: Path) -> int:
    flag: int | None = getattr(os, "O_DIRECT", None)
    if flag is None:
        raise _refused(path.parent)
    try:
        return os.open(path, os.O_RDWR | flag)
    except OSError as error:
        raise (_refused(path.parent) if error.errno in _REFUSALS else _storage_error(path.parent, error)) from error


def _fill(file: _File, directory: Path) -> None:
    """Write the file once, so that no block is a hole."""
    with _aligned(LARGE_BLOCK) as buffer:
        buffer[:] = Random(_SEED).randbytes(LARGE_BLOCK)
        try:
            for offset in range(0, file.num_bytes, LARGE_BLOCK):
                os.pwritev(file.descriptor, [buffer], offset)
            os.fsync(file.descriptor)
        except OSError as error:
            raise (_refused(directory) if error.errno in _REFUSALS else _storage_error(directory, error)) from error


@contextmanager
def _aligned(num_bytes: int) -> Iterator[mmap.mmap]:
    """Give memory that begins at a page, as direct access asks."""
    memory = mmap.mmap(-1, num_bytes)
    try:
        yield memory
    finally:
        memory.close()


def _readings(file: _File, operation: Operation, block: int, depth: int, budget_s: float) -> Iterator[Reading]:
    """Keep ``depth`` requests under way for the budget; blocks are in random places."""
    with ThreadPoolExecutor(depth) as threads, Stopwatch() as watch:
        jobs = [threads.submit(_request_loop, file, operation, block, seed, budget_s) for seed in range(depth)]
        counts = [job.result() for job in jobs]
    total = sum(count for count, _ in counts)

    def reading(value: float, unit: Unit) -> Reading:
        return Reading(subject=SUBJECT, name=operation, value=value, unit=unit, size_bytes=block, depth=depth)

    yield reading(total * block / watch.elapsed_s, Unit.BYTES_PER_S)
    if block == SMALL_BLOCK:
        yield reading(sum(seconds for _, seconds in counts) / total, Unit.SECONDS)


def _request_loop(file: _File, operation: Operation, block: int, seed: int, budget_s: float) -> tuple[int, float]:
    """Return how many requests one thread made, and its seconds."""
    call: Callable[..., int] = os.preadv if operation == "read" else os.pwritev
    rng, num_blocks, count = Random(seed), file.num_bytes // block, 0
    with _aligned(block) as buffer:
        begin_s = wall_s()
        while True:
            call(file.descriptor, [buffer], rng.randrange(num_blocks) * block)
            count += 1
            elapsed_s = wall_s() - begin_s
            if elapsed_s >= budget_s:
                return count, elapsed_s


def _refused(directory: Path) -> DirectAccessRefusedError:
    problem = "its file system has no direct access to a disk, and memory would be measured instead"
    return DirectAccessRefusedError(problem, field=str(directory), remedy="Give --output on a disk")


def _storage_error(directory: Path, error: OSError) -> StorageError:
    problem = f"it cannot be measured ({error.strerror or error})"
    return StorageError(problem, field=str(directory), remedy="Make room, or give --output where you may write")
