"""From readings to a :class:`~steelyard.hardware.device.Machine`, in the format of every other description."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from steelyard.hardware.device import Cache, Device, DeviceKind, Disk, Link, Machine, PeakRate
from steelyard.hardware.probe import bandwidth, disk, gpu, latency, links, peaks, threads
from steelyard.hardware.probe.reading import Reading, Unit, find, largest

_DTYPES = ("float32", "bfloat16", "int8")
# So many times the largest cache: three quarters of the loads or more go to the memory.
_BEYOND_CACHES = 4
_GPU_DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8")


def described(machine: Machine, readings: tuple[Reading, ...], directory: Path, stated: dict[int, int]) -> Machine:
    """Return ``machine`` with what was measured filled in; what was not stays as it is.

    Args:
        machine: from :func:`steelyard.hardware.this_machine.this_machine`.
        readings: from :func:`steelyard.hardware.probe.run.measure_all`.
        directory: where the disk was measured.
        stated: capacities of caches by level, as the operating system says.
    """
    return replace(
        machine,
        devices=tuple(
            _cpu(device, readings, stated) if device.kind is DeviceKind.CPU else _gpu(device, readings)
            for device in machine.devices
        ),
        links=(*_process_links(readings), *_host_links(machine, readings)),
        disks=_disks(readings, directory),
    )


def caches(readings: tuple[Reading, ...], stated: dict[int, int]) -> tuple[tuple[Cache, ...], float | None]:
    """Return the caches, and the latency of the memory behind them.

    Levels and sizes are the operating system's where it states them: steps in the latency curve are also made by
    address translation, by the far part of a shared cache, and by what other programmes and other virtual machines
    leave of it. Where nothing is stated, the curve's steps are all there is.
    """
    curve = [(reading.size_bytes or 0, reading.value) for reading in find(readings, latency.SUBJECT, "load")]
    levels = latency.plateaus(curve)
    shown = {number: plateau.capacity_bytes for number, plateau in enumerate(levels[:-1], start=1)}
    sizes = stated or shown
    found, inner_bytes = [], 0
    for level in sorted(sizes):
        found.append(
            Cache(
                level=level,
                capacity_bytes=sizes[level],
                stated_bytes=stated.get(level),
                measured_bytes=shown.get(level),
                latency_s=_latency_between(curve, inner_bytes, sizes[level]),
                bandwidth_bytes_per_s=_bandwidth_within(readings, sizes[level]),
            )
        )
        inner_bytes = sizes[level]
    return tuple(found), _memory_latency_s(curve, stated) or (levels[-1].latency_s if levels else None)


def _latency_between(curve: list[tuple[int, float]], inner_bytes: int, capacity_bytes: int) -> float | None:
    """Return a cache's latency: at the smallest size that the caches before it hold no more than half of."""
    fitting = [(size, seconds) for size, seconds in curve if 2 * inner_bytes <= size <= capacity_bytes]
    return min(fitting)[1] if fitting else None


def _memory_latency_s(curve: list[tuple[int, float]], stated: dict[int, int]) -> float | None:
    """Return the latency at the smallest size that no stated cache holds a good part of.

    Larger sizes add address translation; smaller ones may be pushed out of a cache by other programmes.
    """
    if not stated:
        return None
    beyond = _BEYOND_CACHES * max(stated.values())
    return next((seconds for size, seconds in sorted(curve) if size >= beyond), None)


def _bandwidth_within(readings: tuple[Reading, ...], capacity_bytes: int) -> float | None:
    """Return reading's rate at the largest size measured that takes up half of a cache or less."""
    fitting = [
        r for r in find(readings, bandwidth.SUBJECT, "read by size") if (r.size_bytes or 0) <= capacity_bytes / 2
    ]
    return max(fitting, key=lambda r: r.size_bytes or 0).value if fitting else None


def _cpu(device: Device, readings: tuple[Reading, ...], stated: dict[int, int]) -> Device:
    found, memory_latency_s = caches(readings, stated)
    tier = device.memory[0]
    rate = largest(find(readings, bandwidth.SUBJECT, "read"))
    return replace(
        device,
        memory=(
            replace(
                tier,
                bandwidth_bytes_per_s=rate or tier.bandwidth_bytes_per_s,
                latency_s=memory_latency_s or tier.latency_s,
            ),
            *device.memory[1:],
        ),
        peaks=tuple(peak for dtype in _DTYPES if (peak := _peak(dtype, readings)) is not None) or device.peaks,
        caches=found or device.caches,
        launch_latency_s=_with_all_threads(readings, threads.HOT) or device.launch_latency_s,
        barrier_latency_s=_with_all_threads(readings, threads.BARRIER) or device.barrier_latency_s,
    )


def _peak(dtype: str, readings: tuple[Reading, ...]) -> PeakRate | None:
    """Return a dtype's rates: the roof is the best instruction set, or a matrix product where that is above it."""
    prefix = peaks.register_name(dtype, "")
    units = largest([r for r in readings if r.subject == peaks.SUBJECT and r.name.startswith(prefix)])
    product = largest(find(readings, peaks.SUBJECT, peaks.matmul_name(dtype)))
    known = [rate for rate in (units, product) if rate is not None]
    return PeakRate(dtype=dtype, flop_per_s=max(known), matmul_flop_per_s=product) if known else None


def _with_all_threads(readings: tuple[Reading, ...], name: str) -> float | None:
    found = find(readings, threads.SUBJECT, name)
    return max(found, key=lambda reading: reading.num_threads or 0).value if found else None


def _process_links(readings: tuple[Reading, ...]) -> tuple[Link, ...]:
    found = []
    for kind in links.KINDS:
        by_unit = {reading.unit: reading.value for reading in find(readings, links.SUBJECT, kind)}
        if {Unit.SECONDS, Unit.BYTES_PER_S} <= set(by_unit):
            rate, seconds = by_unit[Unit.BYTES_PER_S], by_unit[Unit.SECONDS]
            found.append(Link(ends=("cpu", "cpu"), bandwidth_bytes_per_s=rate, latency_s=seconds, name=kind))
    return tuple(found)


def _disks(readings: tuple[Reading, ...], directory: Path) -> tuple[Disk, ...]:
    def rate(operation: disk.Operation) -> float | None:
        blocks = find(readings, disk.SUBJECT, operation, size_bytes=disk.LARGE_BLOCK)
        return largest([reading for reading in blocks if reading.unit is Unit.BYTES_PER_S])

    def seconds(operation: disk.Operation) -> float | None:
        blocks = find(readings, disk.SUBJECT, operation, size_bytes=disk.SMALL_BLOCK, depth=1)
        return next((reading.value for reading in blocks if reading.unit is Unit.SECONDS), None)

    if rate("read") is None:
        return ()
    one = Disk(
        name=str(directory),
        capacity_bytes=shutil.disk_usage(directory).total,
        read_bytes_per_s=rate("read"),
        write_bytes_per_s=rate("write"),
        read_latency_s=seconds("read"),
        write_latency_s=seconds("write"),
    )
    return (one,)


def _gpu(device: Device, readings: tuple[Reading, ...]) -> Device:
    """Fill in a GPU. Only one is told apart: several of a machine are taken to be alike."""
    tier = device.memory[0]
    products = [(dtype, largest(find(readings, gpu.SUBJECT, dtype))) for dtype in _GPU_DTYPES]
    loads = find(readings, gpu.SUBJECT, gpu.LATENCY)
    return replace(
        device,
        memory=(
            replace(
                tier,
                bandwidth_bytes_per_s=largest(find(readings, gpu.SUBJECT, gpu.READ)),
                latency_s=largest(loads),
            ),
        ),
        peaks=tuple(PeakRate(dtype=dtype, flop_per_s=rate, matmul_flop_per_s=rate) for dtype, rate in products if rate),
        launch_latency_s=largest(find(readings, gpu.SUBJECT, gpu.LAUNCH)),
    )


def _host_links(machine: Machine, readings: tuple[Reading, ...]) -> tuple[Link, ...]:
    launch_s = largest(find(readings, gpu.SUBJECT, gpu.LAUNCH))
    pinned = find(readings, gpu.SUBJECT, f"{gpu.PINNED}, to the device")
    return tuple(
        Link(ends=("cpu", device.name), bandwidth_bytes_per_s=pinned[0].value, latency_s=launch_s, name=gpu.PINNED)
        for device in machine.devices
        if device.kind is DeviceKind.GPU and pinned and launch_s is not None
    )
