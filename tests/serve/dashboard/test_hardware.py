"""The description of this machine is read when there is one, and again when it changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from steelyard.core.errors import StorageError
from steelyard.cost.profile import Profile, profile_text
from steelyard.hardware.this_machine import this_machine
from steelyard.serve.dashboard.hardware import KnownHardware


def write(path: Path, profile: Profile, at: int) -> None:
    path.write_text(profile_text(profile), encoding="utf-8")
    os.utime(path, (at, at))


def test_it_is_read_once_per_change(tmp_path: Path):
    path = tmp_path / "probe.toml"
    known = KnownHardware(lambda: path)
    assert not known.refresh()
    assert known.profile is None
    assert known.machine == known.machine_here()
    profile = Profile(machine=this_machine(), measured_at="2026-01-31T12:00:00Z")
    write(path, profile, 1000)
    assert known.refresh()
    assert known.profile is not None
    assert known.profile.measured_at == profile.measured_at
    assert not known.refresh()
    write(path, replace(profile, quick=True), 2000)
    assert known.refresh()
    assert known.profile.quick
    path.unlink()
    assert known.refresh()
    assert known.profile is None


def test_what_is_no_description_of_this_machine_is_ignored(tmp_path: Path):
    path = tmp_path / "probe.toml"
    known = KnownHardware(lambda: path)
    path.write_text("nonsense", encoding="utf-8")
    assert known.refresh()
    assert known.profile is None
    write(path, Profile(machine=replace(this_machine(), cpu_model="another")), 1000)
    assert known.refresh()
    assert known.profile is None


def test_without_a_place_for_files_there_is_none():
    def nowhere() -> Path:
        raise StorageError("there is no home", field="STEELYARD_CACHE", remedy="Set it")

    known = KnownHardware(nowhere)
    assert not known.refresh()
    assert known.profile is None
