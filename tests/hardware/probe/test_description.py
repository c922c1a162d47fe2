"""From readings to a description: each number in its place, and nothing made up."""

from pathlib import Path

import pytest

from steelyard.core.units import KIB, MIB
from steelyard.hardware.device import Device, DeviceKind, Machine, MemoryTier, machine_from_table, machine_table
from steelyard.hardware.probe.description import caches, described
from steelyard.hardware.probe.reading import Reading, Unit

CPU = Device(name="cpu", kind=DeviceKind.CPU, memory=(MemoryTier(name="memory", capacity_bytes=1 << 40),))
GPU = Device(name="cuda:0", kind=DeviceKind.GPU, memory=(MemoryTier(name="device memory", capacity_bytes=1 << 40),))
UNIT = {"latency": Unit.SECONDS, "threads": Unit.SECONDS, "peaks": Unit.FLOP_PER_S, "bandwidth": Unit.BYTES_PER_S}


def machine(*devices):
    return Machine(name="m", cpu_model="c", num_logical_cores=2, num_usable_cores=2, devices=devices)


def reading(subject, name, value, unit=None, **more):
    return Reading(subject=subject, name=name, value=value, unit=unit or UNIT[subject], **more)


CURVE = tuple(
    reading("latency", "load", seconds, size_bytes=size)
    for size, seconds in ((16 * KIB, 1e-9), (32 * KIB, 1e-9), (MIB, 4e-9), (2 * MIB, 4e-9), (64 * MIB, 1e-7))
)
READINGS = (
    *CURVE,
    reading("bandwidth", "read", 10.0, num_threads=1),
    reading("bandwidth", "read", 19.0, num_threads=2),
    reading("bandwidth", "copy", 99.0, num_threads=2),
    reading("bandwidth", "read by size", 300.0, size_bytes=16 * KIB),
    reading("bandwidth", "read by size", 100.0, size_bytes=MIB),
    reading("peaks", "float32 avx2", 5.0, num_threads=1),
    reading("peaks", "float32 avx512", 8.0, num_threads=2),
    reading("peaks", "float32 torch.mm", 6.0, num_threads=2),
    reading("peaks", "bfloat16 torch.mm", 7.0, num_threads=2),
    reading("threads", "job, threads spinning", 1e-6, num_threads=1),
    reading("threads", "job, threads spinning", 2e-6, num_threads=2),
    reading("threads", "barrier", 3e-7, num_threads=2),
    reading("links", "unix", 5e-6, Unit.SECONDS),
    reading("links", "unix", 1e10, Unit.BYTES_PER_S),
    reading("links", "tcp", 5e-6, Unit.SECONDS),
    reading("disk", "read", 2e9, Unit.BYTES_PER_S, size_bytes=MIB, depth=4),
    reading("disk", "read", 4e9, Unit.BYTES_PER_S, size_bytes=4 * KIB, depth=16),
    reading("disk", "read", 9e-5, Unit.SECONDS, size_bytes=4 * KIB, depth=1),
    reading("disk", "read", 1e-5, Unit.SECONDS, size_bytes=4 * KIB, depth=4),
)


def test_every_number_in_its_place(tmp_path):
    found = described(machine(CPU), READINGS, tmp_path, {1: 48 * KIB, 2: MIB})
    cpu = found.devices[0]
    assert cpu.bandwidth_bytes_per_s == 19.0
    assert cpu.memory[0].latency_s == 1e-7
    sizes = [(c.level, c.capacity_bytes, c.stated_bytes, c.measured_bytes, c.latency_s) for c in cpu.caches]
    assert sizes == [(1, 48 * KIB, 48 * KIB, 32 * KIB, 1e-9), (2, MIB, MIB, 2 * MIB, 4e-9)]
    assert [cache.bandwidth_bytes_per_s for cache in cpu.caches] == [300.0, 300.0], "of half their size or less"
    assert {peak.dtype: (peak.flop_per_s, peak.matmul_flop_per_s) for peak in cpu.peaks} == {
        "float32": (8.0, 6.0),
        "bfloat16": (7.0, 7.0),
    }
    assert (cpu.launch_latency_s, cpu.barrier_latency_s) == (2e-6, 3e-7)
    assert [(link.name, link.latency_s, link.bandwidth_bytes_per_s) for link in found.links] == [("unix", 5e-6, 1e10)]
    disk = found.disks[0]
    assert (disk.read_bytes_per_s, disk.read_latency_s, disk.write_bytes_per_s) == (2e9, 9e-5, None)
    assert disk.name == str(tmp_path)
    assert machine_from_table(machine_table(found)) == found


def test_without_readings_nothing_is_made_up():
    assert described(machine(CPU, GPU), (), Path("/"), {}) == machine(CPU, GPU)


def test_sizes_are_the_stated_ones_and_the_curve_adds_no_level():
    found, memory_s = caches(CURVE, {1: 48 * KIB})
    assert len(found) == 1
    assert memory_s == 4e-9, "the smallest size beyond four times the cache"
    assert caches(CURVE, {1: 4 * MIB})[1] == 1e-7
    assert caches(CURVE, {1: 64 * MIB})[1] == 1e-7, "the curve does not reach so far: its last level"
    assert [(c.capacity_bytes, c.stated_bytes, c.measured_bytes) for c in caches(CURVE, {})[0]] == [
        (32 * KIB, None, 32 * KIB),
        (2 * MIB, None, 2 * MIB),
    ]


def test_a_stated_cache_that_the_curve_does_not_show_is_there_all_the_same():
    found, _ = caches(CURVE, {1: 32 * KIB, 2: 2 * MIB, 3: 32 * MIB})
    assert (found[2].capacity_bytes, found[2].measured_bytes, found[2].latency_s) == (32 * MIB, None, None)


def test_a_gpu_is_described_beside_the_cpu():
    readings = (
        reading("gpu", "read", 3e12, Unit.BYTES_PER_S),
        reading("gpu", "bfloat16", 7e14, Unit.FLOP_PER_S),
        reading("gpu", "launch", 8e-6, Unit.SECONDS),
        reading("gpu", "load", 3e-7, Unit.SECONDS, size_bytes=MIB),
        reading("gpu", "load", 7e-7, Unit.SECONDS, size_bytes=64 * MIB),
        reading("gpu", "pinned, to the device", 5e10, Unit.BYTES_PER_S),
    )
    found = described(machine(CPU, GPU), readings, Path("/"), {})
    assert found.devices[0] == CPU
    gpu = found.device("cuda:0")
    assert (gpu.bandwidth_bytes_per_s, gpu.memory[0].latency_s, gpu.launch_latency_s) == (3e12, 7e-7, 8e-6)
    assert gpu.flop_per_s("bfloat16") == 7e14
    assert found.links[0].ends == ("cpu", "cuda:0")
    assert found.links[0].bandwidth_bytes_per_s == pytest.approx(5e10)
