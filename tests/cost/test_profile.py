"""A probe's file: reads back as it was, and refuses what it is not."""

import os
from dataclasses import replace

import pytest

from steelyard.core.errors import InputError, StorageError
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.profile import (
    Profile,
    profile_from_table,
    profile_of,
    profile_path,
    profile_table,
    profile_text,
    read_profile,
)
from steelyard.hardware.device import Cache, Device, DeviceKind, Machine, MemoryTier, PeakRate
from steelyard.hardware.probe.reading import Reading, Unit

MACHINE = Machine(
    name="m",
    cpu_model='a "CPU"',
    num_logical_cores=4,
    num_usable_cores=2,
    devices=(
        Device(
            name="cpu",
            kind=DeviceKind.CPU,
            memory=(MemoryTier(name="memory", capacity_bytes=1000, latency_s=1e-7),),
            peaks=(PeakRate(dtype="float32", flop_per_s=1e9),),
            caches=(Cache(level=1, capacity_bytes=48),),
        ),
    ),
)
PROFILE = Profile(
    machine=MACHINE,
    measured_at="2026-01-31T12:00:00Z",
    quick=True,
    readings=(
        Reading(subject="latency", name="load", value=1.5e-9, unit=Unit.SECONDS, spread=0.25, size_bytes=4096),
        Reading(subject="disk", name="read", value=2e9, unit=Unit.BYTES_PER_S, depth=4),
    ),
    calibration=Calibration(path="torch", fits=(OperatorFit(operator="linear", dtype="float32"),), num_threads=2),
    notes=("this process may use 2 of 4 cores",),
)


@pytest.mark.parametrize("profile", [PROFILE, Profile(machine=MACHINE)])
def test_reads_back_as_it_was(profile, tmp_path):
    path = tmp_path / "probe.toml"
    path.write_text(profile_text(profile), encoding="utf-8")
    assert read_profile(path) == profile


def test_a_profile_is_of_one_machine(tmp_path):
    path = tmp_path / "probe.toml"
    assert profile_of(MACHINE, path) is None
    path.write_text(profile_text(PROFILE), encoding="utf-8")
    assert profile_of(MACHINE, path) == PROFILE
    assert profile_of(replace(MACHINE, name="renamed"), path) == PROFILE
    gpu = replace(MACHINE.devices[0], name="cuda:0", kind=DeviceKind.GPU)
    for change in ({"cpu_model": "another"}, {"num_usable_cores": 1}, {"devices": (*MACHINE.devices, gpu)}):
        assert profile_of(replace(MACHINE, **change), path) is None
    path.write_text("nonsense", encoding="utf-8")
    with pytest.raises(InputError):
        profile_of(MACHINE, path)


def test_it_is_kept_in_the_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path))
    assert profile_path() == tmp_path / "probe.toml"


def test_unknown_numbers_are_left_out_not_zero():
    text = profile_text(PROFILE)
    assert "None" not in text
    assert "bandwidth_bytes_per_s" not in text


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.pop("machine"), "missing"),
        (lambda table: table.update(version=2), "no such key"),
        (lambda table: table["readings"][0].update(unit="miles"), "no unit"),
        (lambda table: table["readings"][0].update(colour="red"), "no such key"),
        (lambda table: table["readings"][1].pop("name"), "missing"),
        (lambda table: table["machine"].update(cores=2), "no such key"),
        (lambda table: table["calibration"].update(cores=2), "no such key"),
    ],
)
def test_broken_tables_are_refused(change, problem):
    table = profile_table(PROFILE)
    change(table)
    with pytest.raises(InputError, match=problem):
        profile_from_table(table)


def test_no_file_is_no_profile(tmp_path):
    assert read_profile(tmp_path / "missing.toml") is None


@pytest.mark.parametrize("content", [b"not toml", b"\xff\xfe", b"machine = 3", b"[machine]\nname = 'x'"])
def test_a_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "probe.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_profile(path)
    assert caught.value.field == str(path)
    assert "steelyard probe" in caught.value.remedy


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError):
        read_profile(tmp_path)
    if os.getuid() != 0:
        path = tmp_path / "locked.toml"
        path.touch(mode=0)
        with pytest.raises(StorageError):
            read_profile(path)
