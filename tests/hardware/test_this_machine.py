"""What the operating system says of the machine the tests run on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steelyard.core.errors import MemoryBudgetError
from steelyard.core.units import GIB, MIB
from steelyard.hardware import this_machine as module
from steelyard.hardware.cgroup import MemoryAllowance
from steelyard.hardware.device import DeviceKind, MemoryTier, machine_from_table, machine_table
from steelyard.hardware.this_machine import (
    available_memory_bytes,
    cpu_model,
    disk_free_bytes,
    measure_quickly,
    num_usable_cores,
    peak_rss_bytes,
    rss_bytes,
    this_machine,
    total_memory_bytes,
)


def test_this_machine_makes_sense():
    machine = this_machine()
    assert 1 <= machine.num_usable_cores <= machine.num_logical_cores
    assert machine.cpu_model
    cpu = machine.devices[0]
    assert (cpu.name, cpu.kind, cpu.peaks) == ("cpu", DeviceKind.CPU, ())
    assert 0 < cpu.memory[0].usable_bytes <= cpu.memory[0].capacity_bytes
    assert len(machine.devices) == 1 + torch.cuda.device_count()
    assert machine_from_table(machine_table(machine)) == machine


def test_available_is_within_total():
    assert 0 < available_memory_bytes() <= total_memory_bytes()


def test_control_group_limits_are_honoured(monkeypatch):
    allowance = MemoryAllowance(limit_bytes=100 * MIB, headroom_bytes=7 * MIB)
    monkeypatch.setattr(module, "memory_allowance", lambda: allowance)
    assert total_memory_bytes() == 100 * MIB
    assert available_memory_bytes() == 7 * MIB
    assert this_machine().devices[0].memory[0].usable_bytes == 7 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_address_space_limit_is_honoured():
    code = (
        "import resource; from steelyard.hardware.this_machine import *; "
        "resource.setrlimit(resource.RLIMIT_AS, (9 << 30, 9 << 30)); "
        "print(total_memory_bytes(), available_memory_bytes())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    total, available = map(int, out.split())
    assert total <= 9 * GIB
    assert 0 < available < 9 * GIB  # torch has mapped some of it already


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1e9, None), (None, None)])
def test_quota_limits_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(module, "cpu_quota", lambda: None)
    all_cores = num_usable_cores()
    monkeypatch.setattr(module, "cpu_quota", lambda: quota)
    assert num_usable_cores() == (cores or all_cores)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_limits_the_cores():
    code = (
        "import os; from steelyard.hardware.this_machine import num_usable_cores; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(num_usable_cores())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) == 1


def test_cpu_model_falls_back(monkeypatch):
    monkeypatch.setattr(module, "_proc_lines", lambda name: ["processor : 0", "model name : Brand X", "model name : Y"])
    assert cpu_model() == "Brand X"
    monkeypatch.setattr(module, "_proc_lines", lambda name: [])
    assert cpu_model()


def test_without_proc_memory_is_still_known(monkeypatch):
    monkeypatch.setattr(module, "_proc_lines", lambda name: [])
    assert 0 < available_memory_bytes() <= total_memory_bytes()


def test_disk_free_of_a_path_that_does_not_exist_yet(tmp_path):
    free = disk_free_bytes(tmp_path / "not" / "there" / "yet")
    assert 0 < free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert disk_free_bytes(Path("relative/and/missing")) > 0


def test_rss_is_below_its_peak():
    assert 1 << 20 < rss_bytes() <= peak_rss_bytes() + (1 << 20)


def test_peak_rss_covers_what_was_touched():
    before = peak_rss_bytes()
    data = torch.ones(before // 4 + 8 * MIB)  # more bytes than were ever resident
    assert peak_rss_bytes() > before
    assert peak_rss_bytes() >= data.nbytes


def test_measure_quickly_fills_in_the_numbers(monkeypatch):
    monkeypatch.setattr(module, "_MATRIX_SIZE", 64)
    monkeypatch.setattr(module, "_READ_BYTES", 16 * MIB)
    device = measure_quickly()
    assert device.flop_per_s("float32") > 1e6
    assert device.bandwidth_bytes_per_s > 1e6
    again = measure_quickly(device)
    assert [peak.dtype for peak in again.peaks] == ["float32"]
    assert again.name == "cpu"


def test_measuring_needs_some_memory(monkeypatch):
    monkeypatch.setattr(module, "_MATRIX_SIZE", 64)
    cpu = this_machine().devices[0]
    full = MemoryTier(name="memory", capacity_bytes=GIB, available_bytes=MIB)
    with pytest.raises(MemoryBudgetError):
        measure_quickly(type(cpu)(name="cpu", kind=cpu.kind, memory=(full,)))
