"""How a measured machine is shown: a table of what it is, and one per subject that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.table import Table

from steelyard.core.units import format_bytes, format_seconds
from steelyard.hardware.device import Device, Machine
from steelyard.hardware.probe.reading import Reading, Unit

_DASH = "–"


def machine_tables(machine: Machine) -> Iterator[Table]:
    """Yield one table per device, then links and disks if there are any."""
    for device in machine.devices:
        yield _device_table(device, machine)
    if machine.links:
        table = _table("links", "BETWEEN", "KIND", "BANDWIDTH", "LATENCY")
        for link in machine.links:
            rate, seconds = _rate(link.bandwidth_bytes_per_s), format_seconds(link.latency_s)
            table.add_row(" – ".join(link.ends), link.name or _DASH, rate, seconds)
        yield table
    if machine.disks:
        table = _table("disks", "DISK", "READ", "WRITE", "READ 4 KiB", "WRITE 4 KiB")
        for disk in machine.disks:
            rates = (_rate(disk.read_bytes_per_s), _rate(disk.write_bytes_per_s))
            table.add_row(disk.name, *rates, _seconds(disk.read_latency_s), _seconds(disk.write_latency_s))
        yield table


def reading_tables(readings: tuple[Reading, ...]) -> Iterator[Table]:
    """Yield one table per subject, in the order measured."""
    for subject, group in groupby(readings, key=lambda reading: reading.subject):
        table = _table(subject, "MEASURED", "THREADS", "SIZE", "DEPTH", "BEST", "SPREAD")
        for reading in group:
            size = _DASH if reading.size_bytes is None else format_bytes(reading.size_bytes)
            spread = _DASH if reading.spread is None else f"{reading.spread:.0%}"
            counts = (_count(reading.num_threads), size, _count(reading.depth))
            table.add_row(reading.name, *counts, format_reading(reading), spread)
        yield table


def format_reading(reading: Reading) -> str:
    """Return a reading's value with its unit, e.g. ``42.1 GB/s``."""
    if reading.unit is Unit.SECONDS:
        return format_fine_seconds(reading.value)
    if reading.unit is Unit.BYTES:
        return format_bytes(reading.value)
    return f"{reading.value / 1e9:.3g} G{reading.unit.value}"


def format_fine_seconds(seconds: float) -> str:
    """Return seconds as :func:`format_seconds` does, and below a microsecond in nanoseconds."""
    return f"{seconds * 1e9:.3g} ns" if abs(seconds) < 1e-6 else format_seconds(seconds)


def _device_table(device: Device, machine: Machine) -> Table:
    of_cores = f", {machine.num_usable_cores} cores: {machine.cpu_model}" if device.name == "cpu" else ""
    table = _table(device.name + of_cores, "PART", "STATED", "MEASURED", "BANDWIDTH", "LATENCY", "RATE", "MATMUL")
    for cache in device.caches:
        sizes = (_bytes(cache.stated_bytes), _bytes(cache.measured_bytes))
        rate, seconds = _rate(cache.bandwidth_bytes_per_s), _seconds(cache.latency_s)
        table.add_row(f"L{cache.level} cache", *sizes, rate, seconds)
    for tier in device.memory:
        rate, seconds = _rate(tier.bandwidth_bytes_per_s), _seconds(tier.latency_s)
        table.add_row(tier.name, format_bytes(tier.capacity_bytes), "", rate, seconds)
    for peak in device.peaks:
        table.add_row(peak.dtype, "", "", "", "", _flop(peak.flop_per_s), _flop(peak.matmul_flop_per_s))
    for name, latency_s in (("launch", device.launch_latency_s), ("barrier", device.barrier_latency_s)):
        table.add_row(name, "", "", "", _seconds(latency_s))
    return table


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _rate(bytes_per_s: float | None) -> str:
    return _DASH if bytes_per_s is None else f"{bytes_per_s / 1e9:.3g} GB/s"


def _flop(flop_per_s: float | None) -> str:
    return _DASH if flop_per_s is None else f"{flop_per_s / 1e9:.4g} Gflop/s"


def _seconds(seconds: float | None) -> str:
    return _DASH if seconds is None else format_fine_seconds(seconds)


def _bytes(num_bytes: int | None) -> str:
    return _DASH if num_bytes is None else format_bytes(num_bytes)


def _count(number: int | None) -> str:
    return _DASH if number is None else str(number)
