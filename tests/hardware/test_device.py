"""Descriptions of hardware: checks, look-ups, and the way to a TOML table and back."""

import tomllib
from dataclasses import replace

import pytest

from steelyard.core.errors import InputError
from steelyard.hardware.device import (
    Cache,
    Device,
    DeviceKind,
    Disk,
    Link,
    Machine,
    MemoryTier,
    PeakRate,
    machine_from_table,
    machine_table,
)

TOML = """
name = "bench"
cpu_model = "a CPU"
num_logical_cores = 8
num_usable_cores = 4

[[devices]]
name = "cpu"
kind = "cpu"
memory = [{ name = "memory", capacity_bytes = 1000, available_bytes = 600, latency_s = 1e-7 }]
caches = [{ level = 1, capacity_bytes = 48, stated_bytes = 49, latency_s = 1e-9, bandwidth_bytes_per_s = 3e11 }]
launch_latency_s = 2e-6
barrier_latency_s = 3e-7

[[devices]]
name = "cuda:0"
kind = "gpu"
memory = [{ name = "device memory", capacity_bytes = 500, bandwidth_bytes_per_s = 2e12 }]
peaks = [{ dtype = "float32", flop_per_s = 1e13 }, { dtype = "bfloat16", flop_per_s = 1e14, matmul_flop_per_s = 7e13 }]

[[links]]
ends = ["cpu", "cuda:0"]
bandwidth_bytes_per_s = 3e10
latency_s = 1e-5
name = "pinned"

[[disks]]
name = "/"
capacity_bytes = 10000
read_bytes_per_s = 2e9
read_latency_s = 1e-4
"""


def _machine(**changes):
    cpu = Device(
        name="cpu",
        kind=DeviceKind.CPU,
        memory=(MemoryTier(name="memory", capacity_bytes=1000, available_bytes=600, latency_s=1e-7),),
        caches=(Cache(level=1, capacity_bytes=48, stated_bytes=49, latency_s=1e-9, bandwidth_bytes_per_s=3e11),),
        launch_latency_s=2e-6,
        barrier_latency_s=3e-7,
    )
    gpu = Device(
        name="cuda:0",
        kind=DeviceKind.GPU,
        memory=(MemoryTier(name="device memory", capacity_bytes=500, bandwidth_bytes_per_s=2e12),),
        peaks=(
            PeakRate(dtype="float32", flop_per_s=1e13),
            PeakRate(dtype="bfloat16", flop_per_s=1e14, matmul_flop_per_s=7e13),
        ),
    )
    link = Link(ends=("cpu", "cuda:0"), bandwidth_bytes_per_s=3e10, latency_s=1e-5, name="pinned")
    disk = Disk(name="/", capacity_bytes=10000, read_bytes_per_s=2e9, read_latency_s=1e-4)
    values = {
        "name": "bench", "cpu_model": "a CPU", "num_logical_cores": 8, "num_usable_cores": 4,
        "devices": (cpu, gpu), "links": (link,), "disks": (disk,),
    }  # fmt: skip
    return Machine(**{**values, **changes})


def test_toml_reads_as_the_same_machine():
    assert machine_from_table(tomllib.loads(TOML)) == _machine()


def test_table_holds_only_what_toml_can():
    assert machine_table(_machine()) == tomllib.loads(TOML)
    assert machine_from_table(machine_table(_machine())) == _machine()


def test_look_ups():
    machine = _machine()
    assert machine.device("cuda:0").flop_per_s("bfloat16") == 1e14
    assert machine.device("cuda:0").bandwidth_bytes_per_s == 2e12
    assert machine.device("cpu").memory[0].usable_bytes == 600
    assert machine.device("cuda:0").memory[0].usable_bytes == 500


def test_what_is_not_known_is_said():
    machine = _machine()
    with pytest.raises(InputError, match=r"int8 is not known.*float32, bfloat16"):
        machine.device("cuda:0").flop_per_s("int8")
    with pytest.raises(InputError, match="bandwidth is not known"):
        _ = machine.device("cpu").bandwidth_bytes_per_s
    with pytest.raises(InputError, match="Use one of cpu, cuda:0"):
        machine.device("tpu")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda: MemoryTier(name="m", capacity_bytes=0), "capacity_bytes"),
        (lambda: MemoryTier(name="m", capacity_bytes=1, bandwidth_bytes_per_s=float("nan")), "bandwidth_bytes_per_s"),
        (lambda: MemoryTier(name="m", capacity_bytes=1, available_bytes=2), "available_bytes"),
        (lambda: MemoryTier(name="m", capacity_bytes=1, available_bytes=-1), "available_bytes"),
        (lambda: MemoryTier(name="m", capacity_bytes=1, latency_s=0), "latency_s"),
        (lambda: PeakRate(dtype="float32", flop_per_s=0), "flop_per_s"),
        (lambda: PeakRate(dtype="float32", flop_per_s=1, matmul_flop_per_s=-1), "matmul_flop_per_s"),
        (lambda: Cache(level=0, capacity_bytes=1), "level"),
        (lambda: Cache(level=1, capacity_bytes=1, stated_bytes=0), "stated_bytes"),
        (lambda: Disk(name="d", capacity_bytes=1, write_latency_s=float("inf")), "write_latency_s"),
        (lambda: replace(_machine().devices[0], caches=_machine().devices[0].caches * 2), "cpu.caches"),
        (lambda: replace(_machine().devices[0], barrier_latency_s=0.0), "barrier_latency_s"),
        (lambda: Device(name="d", kind=DeviceKind.CPU, memory=()), "d.memory"),
        (lambda: Link(ends=("a", "b"), bandwidth_bytes_per_s=1, latency_s=-1), "latency_s"),
        (lambda: _machine(num_usable_cores=0), "num_usable_cores"),
        (lambda: _machine(devices=()), "bench.devices"),
        (lambda: _machine(devices=(_machine().devices[0],) * 2, links=()), "bench.devices"),
        (lambda: _machine(links=(Link(ends=("cpu", "x"), bandwidth_bytes_per_s=1, latency_s=0),)), "device"),
    ],
)
def test_impossible_hardware_is_refused(wrong, field):
    with pytest.raises(InputError) as caught:
        wrong()
    assert caught.value.field == field


def test_a_dtype_may_have_one_rate_only():
    twice = (PeakRate(dtype="float32", flop_per_s=1), PeakRate(dtype="float32", flop_per_s=2))
    with pytest.raises(InputError, match="occurs twice"):
        Device(name="d", kind=DeviceKind.CPU, memory=_machine().devices[0].memory, peaks=twice)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("num_usable_cores = 4", "cores = 4", "no such key"),
        ("num_usable_cores = 4", "", "cannot be read"),
        ('kind = "gpu"', 'kind = "tpu"', "no kind"),
        ('dtype = "float32"', 'type = "float32"', "no such key"),
        ("latency_s = 1e-5", "", "cannot be read"),
        ("level = 1", "depth = 1", "no such key"),
        ("read_bytes_per_s = 2e9", "bytes_per_s = 2e9", "no such key"),
    ],
)
def test_broken_tables_are_refused(old, new, problem):
    with pytest.raises(InputError, match=problem):
        machine_from_table(tomllib.loads(TOML.replace(old, new)))
