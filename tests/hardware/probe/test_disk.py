"""The disk's file: bounded, gone afterwards, and nothing measured where memory would be."""

import errno
import os

import pytest

from steelyard.core.errors import StorageError
from steelyard.core.units import MIB
from steelyard.hardware.probe import disk
from steelyard.hardware.probe.reading import Scale, Unit

SCALE = Scale(budget_s=0.001, max_bytes=1, disk_bytes=16 * MIB, num_threads=1)


@pytest.fixture
def on_a_disk(tmp_path):
    if not hasattr(os, "O_DIRECT") or disk.file_system(tmp_path) in disk._IN_MEMORY:
        pytest.skip("no direct access here")
    return tmp_path


def test_every_combination_once_and_no_file_left(on_a_disk):
    try:
        readings = tuple(disk.measure(SCALE, on_a_disk))
    except disk.DirectAccessRefusedError:
        pytest.skip("the file system refuses direct access")
    rates = [(r.name, r.size_bytes, r.depth) for r in readings if r.unit is Unit.BYTES_PER_S]
    blocks = (disk.LARGE_BLOCK, disk.SMALL_BLOCK)
    assert rates == [(name, block, depth) for name in disk.OPERATIONS for block in blocks for depth in disk.DEPTHS]
    seconds = [r for r in readings if r.unit is Unit.SECONDS]
    assert {r.size_bytes for r in seconds} == {disk.SMALL_BLOCK}
    assert all(r.value > 0 for r in readings)
    assert os.listdir(on_a_disk) == []


def test_an_interrupt_leaves_no_file(on_a_disk, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(disk.measure(SCALE, on_a_disk))
    assert os.listdir(on_a_disk) == []


def _failing(code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EINVAL, disk.DirectAccessRefusedError), (errno.ENOSPC, StorageError)]
)
def test_refusals_and_full_disks_are_told_apart(on_a_disk, monkeypatch, code, kind):
    monkeypatch.setattr(disk.os, "pwritev", _failing(code))
    with pytest.raises(StorageError) as caught:
        next(disk.measure(SCALE, on_a_disk))
    assert type(caught.value) is kind
    assert os.listdir(on_a_disk) == []


def test_memory_is_not_measured_as_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "file_system", lambda directory: "tmpfs")
    with pytest.raises(disk.DirectAccessRefusedError):
        next(disk.measure(SCALE, tmp_path))


def test_needs_some_room(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "file_system", lambda directory: "ext4")
    monkeypatch.setattr(disk, "disk_free_bytes", lambda directory: 20 * MIB)
    with pytest.raises(StorageError, match="too little is free"):
        next(disk.measure(SCALE, tmp_path))


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        f"2 1 0:5 / {tmp_path} rw shared:1 - tmpfs tmpfs rw\n"
        f"3 1 0:6 / {tmp_path}/inner rw - xfs /dev/b rw\n"
        "broken line\n"
    )
    assert disk.file_system(tmp_path / "x", mounts) == "tmpfs"
    assert disk.file_system(tmp_path / "inner", mounts) == "xfs"
    assert disk.file_system(tmp_path.parent, mounts) == "ext4"
    assert disk.file_system(tmp_path, tmp_path / "missing") is None
