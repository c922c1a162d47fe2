"""Reports of reproductions: what is stamped on them, how they print, and that files are whole or absent."""

import io
import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from steelyard.core.errors import InputError, StorageError
from steelyard.hardware.device import Device, DeviceKind, Machine, MemoryTier
from steelyard.reproduce import REPRODUCTIONS, find_reproduction, s74
from steelyard.reproduce import files as files_module
from steelyard.reproduce.files import write_text_atomically
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import (
    Reproduction,
    ReproductionRow,
    describe_machine,
    print_reproduction,
    source_version,
    stamped,
    write_reproduction,
)

REPORT = Reproduction(
    system="S74",
    claim="11× over request-at-a-time",
    setup="GPT on a GPU there, a small model on a CPU here",
    rows=(
        ReproductionRow(claim="11×", setup="8 requests [not markup]", ours="3.5 → 12.1 tokens/s", ratio=3.456),
        ReproductionRow(claim="–", setup="one request", ours="3.5 tokens/s"),
    ),
    machine="a CPU, 2 cores, 8.00 GiB",
    commit="0123456789ab",
    command="steelyard reproduce S74",
    date="2025-01-31T12:00:00Z",
)


def test_ratios_are_the_rows_that_have_one():
    assert REPORT.ratios == (3.456,)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1.0])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(InputError, match="no ratio"):
        ReproductionRow(claim="", setup="", ours="", ratio=ratio)


def test_prints_everything_side_by_side():
    out = io.StringIO()
    print_reproduction(REPORT, Console(file=out, width=100))
    text = out.getvalue()
    line = next(line for line in text.splitlines() if "8 requests" in line)
    assert re.search(r"11×\s+8 requests \[not markup\]\s+3\.5 → 12\.1 tokens/s\s+3\.46×", line)
    for part in (REPORT.claim, REPORT.setup, REPORT.machine, REPORT.commit, REPORT.command, REPORT.date):
        assert part in text


def test_writes_json_that_reads_back(tmp_path):
    path = write_reproduction(REPORT, tmp_path / "new" / "results")
    assert path.name == "S74-2025-01-31T120000Z.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(ReproductionRow(**row) for row in content.pop("rows"))
    assert content.pop("ratios") == [3.456]
    assert Reproduction(**content, rows=rows) == REPORT
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_error_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        write_reproduction(REPORT, tmp_path / "file")
    assert caught.value.remedy


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch, error):
    def fail(_):
        raise error

    path = tmp_path / "out.txt"
    write_text_atomically(path, "old")
    monkeypatch.setattr(files_module.os, "fsync", fail)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_writing_replaces_and_follows_the_umask(tmp_path):
    path, plain = tmp_path / "out.txt", tmp_path / "plain.txt"
    plain.write_text("")
    write_text_atomically(path, "old")
    write_text_atomically(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert path.stat().st_mode == plain.stat().st_mode


def test_stamped_fills_in_machine_source_and_moment():
    report = stamped(system="S74", claim="c", setup="s", rows=REPORT.rows, command="x")
    assert report.machine
    assert report.commit == source_version()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report.date)
    assert replace(report, machine="", commit="", date="").rows == REPORT.rows


def test_machine_in_one_line():
    def device(name, kind, num_bytes):
        return Device(name=name, kind=kind, memory=(MemoryTier(name="m", capacity_bytes=num_bytes),))

    machine = Machine(
        name="m", cpu_model="a CPU", num_logical_cores=8, num_usable_cores=4,
        devices=(device("cpu", DeviceKind.CPU, 8 << 30), device("cuda:0", DeviceKind.GPU, 2 << 30)),
    )  # fmt: skip
    assert describe_machine(machine) == "a CPU, 4 cores, 8.00 GiB, cuda:0 with 2.00 GiB"


def _git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_source_version_is_the_commit_of_a_checkout(tmp_path):
    package = tmp_path / "src" / "steelyard"
    package.mkdir(parents=True)
    (package / "a.py").write_text("")
    _git(tmp_path, "init")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    _git(tmp_path, "tag", "v9")
    assert re.fullmatch(r"[0-9a-f]{12}", source_version(package))
    (package / "a.py").write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{12}-dirty", source_version(package))


def test_source_version_outside_of_a_checkout_is_the_package_version(tmp_path):
    inside_anothers = tmp_path / "lib" / "steelyard"
    inside_anothers.mkdir(parents=True)
    _git(tmp_path, "init")
    assert source_version(inside_anothers).startswith("steelyard ")
    assert source_version(tmp_path / "src" / "steelyard").startswith("steelyard ")  # a repository without commits


def test_command_line_can_be_pasted():
    options = ReproduceOptions(model="my model", out_dir=Path("a b"), seed=3, quick=True, data_dir=Path("c d"))
    assert shlex.split(command_line("S74", options)) == [
        "steelyard", "reproduce", "S74", "--model", "my model", "--seed", "3", "--out-dir", "a b", "--quick", "--data",
        "c d",
    ]  # fmt: skip
    assert "--quick" not in command_line("S74", ReproduceOptions(model="m"))


def test_unknown_systems_are_refused_and_known_ones_found(monkeypatch):
    with pytest.raises(InputError, match="S99"):
        find_reproduction("S99")
    monkeypatch.setitem(REPRODUCTIONS, "S98", "steelyard.reproduce.s74")
    assert find_reproduction("s98") is s74.reproduce
    with pytest.raises(InputError, match="S98"):
        find_reproduction("S99")


def test_a_reproduction_whose_library_is_missing_says_which(monkeypatch):
    monkeypatch.setitem(REPRODUCTIONS, "S98", "a_library_that_nobody_has.s98")
    with pytest.raises(InputError, match=r"S98 needs a_library_that_nobody_has.*steelyard\[plan\]"):
        find_reproduction("S98")


@pytest.mark.parametrize("system", REPRODUCTIONS)
def test_every_registered_reproduction_is_there(system):
    assert callable(find_reproduction(system))
