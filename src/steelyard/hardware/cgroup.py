"""What Linux control groups allow this process: memory and CPU time, in version 1, version 2 or both at once.

A container's limit stands in the group's own directory or in one above it, so all are read from the process's group
up to the top of the mount. Where there are no control groups (other systems, no ``/proc``) nothing is limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# Version 1 says "no limit" with a number near 2**63, rounded down to the page size.
_V1_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAllowance:
    """What control groups leave a process.

    Attributes:
        limit_bytes: the smallest limit on the way up.
        headroom_bytes: the smallest remainder on the way up; file pages that the kernel can drop count as free.
    """

    limit_bytes: int
    headroom_bytes: int


@dataclass(frozen=True, slots=True)
class _Files:
    """Names of a version's files about memory, and its word for file pages that can be dropped."""

    limit: str
    usage: str
    reclaimable: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def memory_allowance(root: Path = ROOT) -> MemoryAllowance | None:
    """Return what memory the process may still take, or ``None`` if no group limits it.

    Args:
        root: of the file system in which ``proc`` and ``sys`` lie; for tests.
    """
    found = [*_allowances(_V1, root, "memory"), *_allowances(_V2, root, "")]
    if not found:
        return None
    return MemoryAllowance(
        limit_bytes=min(one.limit_bytes for one in found), headroom_bytes=min(one.headroom_bytes for one in found)
    )


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many CPUs' time the process may use (2.5 is two and a half), or ``None`` if no group limits it."""
    v1 = [_v1_quota(group) for group in _groups(root, "cpu")]
    v2 = [_v2_quota(group) for group in _groups(root, "")]
    found = [quota for quota in (*v1, *v2) if quota is not None]
    return min(found, default=None)


def _allowances(files: _Files, root: Path, controller: str) -> Iterator[MemoryAllowance]:
    for group in _groups(root, controller):
        limit, usage = _number(group / files.limit), _number(group / files.usage)
        if limit is not None and limit < _V1_UNLIMITED:
            used = max(0, (usage or 0) - _reclaimable(group / "memory.stat", files.reclaimable))
            yield MemoryAllowance(limit_bytes=limit, headroom_bytes=max(0, limit - used))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories from the process's group up to the mount; ``controller`` is empty for version 2."""
    mount = _mount(root, controller)
    path = _group_path(root, controller)
    if mount is None or path is None:
        return
    directory, mounted_group = mount
    # A container often sees only its own subtree mounted, under the name that the host gave it.
    inner = path.relative_to(mounted_group) if path.is_relative_to(mounted_group) else Path()
    here = directory / inner
    yield from (one for one in (here, *here.parents) if one.is_relative_to(directory) and one.is_dir())


def _mount(root: Path, controller: str) -> tuple[Path, Path] | None:
    """Return where the hierarchy is mounted and which group is mounted there."""
    kind = "cgroup" if controller else "cgroup2"
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] != kind:
            continue
        if not controller or controller in tail[2].split(","):
            return root / fields[4].lstrip("/"), Path(fields[3])
    return None


def _group_path(root: Path, controller: str) -> Path | None:
    """Return the process's group from lines like ``4:memory:/a/b`` (version 1) or ``0::/a/b`` (version 2)."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return Path(path)
    return None


def _v1_quota(group: Path) -> float | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _v2_quota(group: Path) -> float | None:
    words = " ".join(_lines(group / "cpu.max")).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() and int(words[1]) else None


def _reclaimable(file: Path, key: str) -> int:
    for line in _lines(file):
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _number(file: Path) -> int | None:
    """Return the file's number, or ``None`` for ``max``, another word, or no such file."""
    text = "".join(_lines(file)).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
