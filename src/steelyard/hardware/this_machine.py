"""What this machine is and has free, as the operating system tells it; nothing is measured unless asked for.

Linux and macOS; on Linux the limits of control groups and of ``ulimit -v`` count. The measurement here takes a second
and finds two numbers per device; taking hardware apart (S06) is another module's work.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from steelyard.core.clock import Stopwatch
from steelyard.core.errors import MemoryBudgetError, ResourceError, StorageError
from steelyard.core.units import GIB, KIB, MIB, format_bytes
from steelyard.hardware.cgroup import cpu_quota, memory_allowance
from steelyard.hardware.device import Device, DeviceKind, Machine, MemoryTier, PeakRate

if sys.platform != "win32":
    import resource

_MATRIX_SIZE = 1024
_GPU_MATRIX_SIZE = 8192
_READ_BYTES = 512 * MIB
_MIN_READ_BYTES = 16 * MIB
_ROUNDS = 3


def this_machine() -> Machine:
    """Return the machine with its CPU (device ``cpu``) and CUDA devices (``cuda:0`` …), rates unknown.

    Raises:
        ResourceError: if the operating system does not say how much memory there is.
    """
    model = cpu_model()
    gpus = tuple(_gpu(index) for index in range(torch.cuda.device_count()))
    return Machine(
        name=platform.machine() + " " + platform.system(),
        cpu_model=model,
        num_logical_cores=os.cpu_count() or 1,
        num_usable_cores=num_usable_cores(),
        devices=(_cpu(), *gpus),
    )


def num_usable_cores() -> int:
    """Return how many logical cores this process may use: affinity, and a control group's quota rounded up."""
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_model() -> str:
    """Return the CPU's name as the system knows it, else its architecture."""
    for line in _proc_lines("cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "cpu model", "hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def total_memory_bytes() -> int:
    """Return the memory that this process could have at most: the machine's, or a limit below it.

    Raises:
        ResourceError: if the operating system does not say.
    """
    allowance = memory_allowance()
    limits = [_physical_bytes(), _address_space_bytes()]
    limits.append(None if allowance is None else allowance.limit_bytes)
    return min(limit for limit in limits if limit is not None)


def available_memory_bytes() -> int:
    """Return the memory that this process can still take without swapping or hitting a limit.

    The least of what the machine has free, what the control groups leave and what ``ulimit -v`` leaves. Where the
    system does not say what is free (not Linux), what is not this process's own counts as free.

    Raises:
        ResourceError: if the operating system does not say how much memory there is.
    """
    allowance = memory_allowance()
    rooms = [_free_bytes(), _address_space_left()]
    rooms.append(None if allowance is None else allowance.headroom_bytes)
    return max(0, min(room for room in rooms if room is not None))


def disk_free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write to the file system of ``path``, which need not exist yet.

    Raises:
        StorageError: if the path's file system cannot be asked.
    """
    nearest = next((one for one in (path, *path.absolute().parents) if one.exists()), path)
    try:
        return shutil.disk_usage(nearest).free
    except OSError as error:
        raise StorageError(
            f"its free space cannot be read ({error.strerror})", field=str(path), remedy="Give another path"
        ) from None


def rss_bytes() -> int:
    """Return the memory that this process occupies now; where the system does not say, at its peak."""
    pages = _proc_lines("self/statm")
    return int(pages[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages else peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Return the most memory that this process ever had resident.

    Raises:
        ResourceError: on systems that do not keep count (Windows).
    """
    if sys.platform == "win32":
        raise ResourceError("is not counted by this system", field="peak memory", remedy="Use Linux or macOS")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB


def release_freed_memory() -> None:
    """Give memory that was freed back to the operating system, where the C library knows how (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def measure_quickly(device: Device | None = None) -> Device:
    """Return ``device`` with its float32 matrix rate and memory bandwidth as PyTorch reaches them now, in about 1 s.

    Args:
        device: one of :func:`this_machine`'s devices; the CPU if left out.

    Returns:
        A copy with both numbers; other rates it had are kept. They are the best of a few rounds, so a busy machine
        gives too little, and on CPUs where the engine's repacked matrix kernel is faster than ``torch.mm``, so is
        the rate.

    Raises:
        MemoryBudgetError: if there is not even memory for the measurement.
    """
    device = _cpu() if device is None else device
    where = torch.device(device.name)
    rate = PeakRate(dtype="float32", flop_per_s=_matmul_flop_per_s(where))
    tier = replace(device.memory[0], bandwidth_bytes_per_s=_read_bytes_per_s(where, device.memory[0].usable_bytes))
    others = tuple(peak for peak in device.peaks if peak.dtype != rate.dtype)
    return replace(device, peaks=(rate, *others), memory=(tier, *device.memory[1:]))


def _cpu() -> Device:
    capacity = total_memory_bytes()
    memory = MemoryTier(name="memory", capacity_bytes=capacity, available_bytes=min(capacity, available_memory_bytes()))
    return Device(name="cpu", kind=DeviceKind.CPU, memory=(memory,))


def _gpu(index: int) -> Device:
    free, total = torch.cuda.mem_get_info(index)
    memory = MemoryTier(name="device memory", capacity_bytes=total, available_bytes=free)
    return Device(name=f"cuda:{index}", kind=DeviceKind.GPU, memory=(memory,))


def _matmul_flop_per_s(where: torch.device) -> float:
    size = _MATRIX_SIZE if where.type == "cpu" else _GPU_MATRIX_SIZE
    a, b = torch.rand(2, size, size, device=where)
    return 2 * size**3 / _best_s(lambda: torch.mm(a, b), where)


def _read_bytes_per_s(where: torch.device, usable_bytes: int) -> float:
    """Sum an array much larger than the caches, as much of it as an eighth of the free memory allows."""
    num_bytes = min(_READ_BYTES if where.type == "cpu" else 4 * GIB, usable_bytes // 8)
    if num_bytes < _MIN_READ_BYTES:
        raise MemoryBudgetError(
            f"{format_bytes(usable_bytes)} free are too few to measure with",
            field=str(where),
            remedy="Free some memory",
        )
    data = torch.ones(num_bytes // 4, device=where)
    return num_bytes / _best_s(lambda: data.sum(), where)


def _best_s(work: Callable[[], object], where: torch.device) -> float:
    """Return the shortest of a few rounds, seconds, after one that warms up."""
    seconds = []
    for _ in range(_ROUNDS + 1):
        with Stopwatch() as watch:
            work()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
        seconds.append(watch.elapsed_s)
    return max(min(seconds[1:]), 1e-9)


def _physical_bytes() -> int:
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        raise ResourceError("is not told by this system", field="memory size", remedy="Use Linux or macOS")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_bytes() -> int:
    for line in _proc_lines("meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    return max(0, _physical_bytes() - peak_rss_bytes())


def _address_space_bytes() -> int | None:
    """Return the soft limit on this process's address space (``ulimit -v``), or ``None``."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _address_space_left() -> int | None:
    limit = _address_space_bytes()
    pages = _proc_lines("self/statm")
    if limit is None or not pages:
        return limit
    return limit - int(pages[0].split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _proc_lines(name: str) -> list[str]:
    try:
        return (Path("/proc") / name).read_text().splitlines()
    except OSError:
        return []
