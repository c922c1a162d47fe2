"""What hardware is, as plain numbers: :class:`Machine`, :class:`Device`, :class:`MemoryTier`, :class:`Link`, …

The classes hold text, numbers and tuples only, so a machine is one TOML table: :func:`machine_table` makes it,
:func:`machine_from_table` reads it back and refuses what it does not know. A measured machine and one from a data sheet
are written alike. A number that nobody has measured or published is ``None``, never zero. Left out until something
needs it: energy, more than one socket.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from steelyard.core.errors import InputError

_T = TypeVar("_T")


class DeviceKind(Enum):
    """What sort of processor a device is."""

    CPU = "cpu"
    GPU = "gpu"
    ACCELERATOR = "accelerator"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTier:
    """One memory that a device computes from.

    Attributes:
        capacity_bytes: what may be used of it at most, limits of the operating system included.
        bandwidth_bytes_per_s: sustained sequential reading; ``None`` if not known.
        available_bytes: free when somebody looked; ``None`` in descriptions that are not of a running machine.
        latency_s: of one load that waits for the one before; ``None`` if not known.
    """

    name: str
    capacity_bytes: int
    bandwidth_bytes_per_s: float | None = None
    available_bytes: int | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        _positive("capacity_bytes", self.capacity_bytes)
        _positive_or_none(self, "bandwidth_bytes_per_s", "latency_s")
        if self.available_bytes is not None and not 0 <= self.available_bytes <= self.capacity_bytes:
            raise InputError(
                f"{self.available_bytes} is not from 0 to the capacity of {self.capacity_bytes}",
                field="available_bytes",
                remedy="Give the free bytes of the tier",
            )

    @property
    def usable_bytes(self) -> int:
        """What is free now if known, else the capacity."""
        return self.capacity_bytes if self.available_bytes is None else self.available_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A cache between a device and its first memory tier.

    Attributes:
        level: 1 is nearest.
        capacity_bytes: as the operating system states it; where it states nothing, as measured.
        stated_bytes: what the operating system says; ``None`` if it says nothing.
        measured_bytes: what the latencies of loads show, which is less where others use the cache too; ``None`` if they
            show no such cache.
        latency_s: of one load that waits for the one before; ``None`` if not known.
        bandwidth_bytes_per_s: reading from it with one thread; ``None`` if not known.
    """

    level: int
    capacity_bytes: int
    stated_bytes: int | None = None
    measured_bytes: int | None = None
    latency_s: float | None = None
    bandwidth_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        _positive("level", self.level)
        _positive("capacity_bytes", self.capacity_bytes)
        _positive_or_none(self, "stated_bytes", "measured_bytes", "latency_s", "bandwidth_bytes_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakRate:
    """Matrix multiplication's best rate in one number format, named as PyTorch does (``float32``, ``bfloat16``).

    Attributes:
        flop_per_s: what the arithmetic units can do.
        matmul_flop_per_s: what a large matrix product of PyTorch reaches; ``None`` if not known.
    """

    dtype: str
    flop_per_s: float
    matmul_flop_per_s: float | None = None

    def __post_init__(self) -> None:
        _positive("flop_per_s", self.flop_per_s)
        _positive_or_none(self, "matmul_flop_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One processor.

    Attributes:
        memory: nearest tier first; the first holds weights and KV cache.
        peaks: one per number format, as far as known.
        caches: nearest first, as far as known.
        launch_latency_s: of work that is nothing, given to the device and waited for; ``None`` if not known.
        barrier_latency_s: for all its threads to meet within such work; ``None`` if not known.
    """

    name: str
    kind: DeviceKind
    memory: tuple[MemoryTier, ...]
    peaks: tuple[PeakRate, ...] = ()
    caches: tuple[Cache, ...] = ()
    launch_latency_s: float | None = None
    barrier_latency_s: float | None = None

    def __post_init__(self) -> None:
        if not self.memory:
            raise InputError("no memory tier is given", field=f"{self.name}.memory", remedy="Give at least one")
        dtypes = [peak.dtype for peak in self.peaks]
        if len(set(dtypes)) != len(dtypes):
            raise InputError("a dtype occurs twice", field=f"{self.name}.peaks", remedy="Give one rate per dtype")
        levels = [cache.level for cache in self.caches]
        if levels != sorted(set(levels)):
            raise InputError("the levels do not rise", field=f"{self.name}.caches", remedy="Give the nearest first")
        _positive_or_none(self, "launch_latency_s", "barrier_latency_s")

    def flop_per_s(self, dtype: str) -> float:
        """Return the peak rate in ``dtype``.

        Raises:
            InputError: if it is not known.
        """
        for peak in self.peaks:
            if peak.dtype == dtype:
                return peak.flop_per_s
        known = ", ".join(peak.dtype for peak in self.peaks) or "none"
        raise InputError(
            f"the rate in {dtype} is not known (known: {known})",
            field=f"{self.name}.peaks",
            remedy="Measure the device, or add the rate to its description",
        )

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Reading rate of the first memory tier.

        Raises:
            InputError: if it is not known.
        """
        bandwidth = self.memory[0].bandwidth_bytes_per_s
        if bandwidth is None:
            raise InputError(
                "the memory bandwidth is not known",
                field=f"{self.name}.{self.memory[0].name}",
                remedy="Measure the device, or add the bandwidth to its description",
            )
        return bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection between two devices of a machine, by their names; equally fast both ways.

    Attributes:
        ends: the same name twice for a connection between two processes on one device.
        latency_s: one way.
        name: what it is, if the ends alone do not say (``tcp``, ``pinned``).
    """

    ends: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float
    name: str | None = None

    def __post_init__(self) -> None:
        _positive("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise InputError(f"{self.latency_s} is no duration", field="latency_s", remedy="Give seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Storage that files lie on, as fast as it is without the operating system's cache.

    Attributes:
        capacity_bytes: of its file system.
        read_bytes_per_s: in large blocks, several at once; ``None`` if not known, as are the others.
        write_bytes_per_s: likewise.
        read_latency_s: of one 4 KiB block.
        write_latency_s: likewise.
    """

    name: str
    capacity_bytes: int
    read_bytes_per_s: float | None = None
    write_bytes_per_s: float | None = None
    read_latency_s: float | None = None
    write_latency_s: float | None = None

    def __post_init__(self) -> None:
        _positive("capacity_bytes", self.capacity_bytes)
        _positive_or_none(self, "read_bytes_per_s", "write_bytes_per_s", "read_latency_s", "write_latency_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One computer under one operating system.

    Attributes:
        num_logical_cores: as the hardware has them.
        num_usable_cores: those that this process may use (affinity and quota).
        devices: the CPU first, then accelerators.
    """

    name: str
    cpu_model: str
    num_logical_cores: int
    num_usable_cores: int
    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
    disks: tuple[Disk, ...] = ()

    def __post_init__(self) -> None:
        _positive("num_logical_cores", self.num_logical_cores)
        _positive("num_usable_cores", self.num_usable_cores)
        names = [device.name for device in self.devices]
        if not names or len(set(names)) != len(names):
            raise InputError(
                f"devices are named {names}", field=f"{self.name}.devices", remedy="Give each its own name"
            )
        for link in self.links:
            for end in link.ends:
                self.device(end)

    def device(self, name: str) -> Device:
        """Return the device of this name.

        Raises:
            InputError: if there is none; it lists the names.
        """
        for device in self.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.devices)
        raise InputError(f"{self.name} has no device {name!r}", field="device", remedy=f"Use one of {known}")


def machine_table(machine: Machine) -> dict[str, Any]:
    """Return ``machine`` as a TOML table: text, numbers, tables and arrays.

    Unknown numbers and empty arrays are left out.
    """
    table = asdict(machine, dict_factory=_table)
    assert isinstance(table, dict)
    return table


def machine_from_table(table: Mapping[str, Any]) -> Machine:
    """Return the machine of a table read by ``tomllib``.

    Raises:
        InputError: if a key is missing or unknown, or a value is impossible.
    """
    devices = tuple(device_from_table(entry) for entry in table.get("devices", ()))
    links = tuple(_make(Link, {**entry, "ends": tuple(entry.get("ends", ()))}) for entry in table.get("links", ()))
    disks = tuple(_make(Disk, entry) for entry in table.get("disks", ()))
    return _make(Machine, {**table, "devices": devices, "links": links, "disks": disks})


def device_from_table(table: Mapping[str, Any]) -> Device:
    """Return the device of a table read by ``tomllib``; raises ``InputError`` like :func:`machine_from_table`."""
    kinds = {kind.value: kind for kind in DeviceKind}
    kind = kinds.get(table.get("kind", ""))
    if kind is None:
        raise InputError(f"{table.get('kind')!r} is no kind", field="kind", remedy=f"Use one of {', '.join(kinds)}")
    memory = tuple(_make(MemoryTier, entry) for entry in table.get("memory", ()))
    peaks = tuple(_make(PeakRate, entry) for entry in table.get("peaks", ()))
    caches = tuple(_make(Cache, entry) for entry in table.get("caches", ()))
    return _make(Device, {**table, "kind": kind, "memory": memory, "peaks": peaks, "caches": caches})


def _make(kind: type[_T], table: Mapping[str, Any]) -> _T:
    """Return ``kind(**table)``, with a readable error for keys that are unknown or missing."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            remedy = f"Use only {', '.join(sorted(known))}"
            raise InputError(f"a {kind.__name__} has no such key", field=key, remedy=remedy)
    try:
        return kind(**table)
    except TypeError as error:
        raise InputError(f"cannot be read ({error})", field=kind.__name__, remedy="Complete the description") from None


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in pairs if value is not None and value != ()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _positive(field: str, number: float) -> None:
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{number} is not a positive number", field=field, remedy="Give a number above 0")


def _positive_or_none(owner: object, *names: str) -> None:
    for name in names:
        if (number := getattr(owner, name)) is not None:
            _positive(name, number)
