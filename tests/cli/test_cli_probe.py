"""``steelyard probe`` and the predictions made from it; measuring is cut down to what costs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
from measured_machine import measured_profile

from steelyard.cli import probe as probe_command
from steelyard.cli import profiles
from steelyard.core.errors import StorageError
from steelyard.cost.operators import OPERATORS
from steelyard.cost.profile import read_profile
from steelyard.hardware.probe.reading import Reading, Unit
from steelyard.hardware.probe.run import Subject

READING = Reading(subject="latency", name="load", value=1.5e-9, unit=Unit.SECONDS, spread=0.25, size_bytes=4096)


def _refused(scale):
    raise StorageError("it is no disk", field="here", remedy="Take another")
    yield


@pytest.fixture
def subjects(monkeypatch):
    """Let two things be measured: one that gives a reading, one that this machine cannot do."""

    def measured(scale):
        yield READING

    found = (Subject("memory latency", measured), Subject("disk", _refused))
    monkeypatch.setattr(profiles, "subjects", lambda directory: found)


@pytest.mark.usefixtures("subjects")
def test_measures_shows_and_keeps(cli, stored_probe):
    result = cli("probe", "--quick")
    assert result.code == 0
    assert f"written to {stored_probe}" in result.err
    assert "disk: here: it is no disk" in result.err
    for words in ("load", "1.5 ns", "25%", "4.00 KiB", "memory"):
        assert words in result.out
    kept = read_profile(stored_probe)
    assert kept.readings == (READING,)
    assert kept.quick


@pytest.mark.usefixtures("subjects")
def test_json_is_the_files_content(cli, tmp_path):
    target = tmp_path / "new" / "machine.toml"
    fields = cli("probe", "--json", "--output", str(target)).json
    assert fields.pop("file") == str(target)
    assert tomllib.loads(target.read_text(encoding="utf-8")) == fields
    assert os.listdir(target.parent) == ["machine.toml"]


def test_an_output_that_cannot_be_written_is_told_before_anything_is_measured(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "measure_profile", lambda *a, **k: pytest.fail("measured"))
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.toml", tmp_path):
        result = cli("probe", "--json", "--output", str(path))
        assert result.code == 1
        assert result.json["error"]["field"] == "--output"


@pytest.mark.usefixtures("subjects")
def test_fewer_cores_than_there_are_is_said(cli, monkeypatch):
    here = replace(measured_profile().machine, num_logical_cores=64, num_usable_cores=1)
    monkeypatch.setattr(profiles, "this_machine", lambda: here)
    result = cli("probe", "--quick")
    assert "this process may use 1 of 64 cores" in result.err


def test_an_interrupt_keeps_the_old_file(cli, stored_probe, monkeypatch):
    def interrupted(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(profiles, "subjects", interrupted)
    before = stored_probe.read_text()
    assert cli("probe").code == 130
    assert stored_probe.read_text() == before
    assert os.listdir(stored_probe.parent) == ["probe.toml"]


def test_ctrl_c_while_the_file_is_tried_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        probe_command._check_writable(tmp_path / "out" / "machine.toml")
    assert os.listdir(tmp_path / "out") == []


MEASURING_FOREVER = """
import sys, time
from steelyard.cli import app, profiles
from steelyard.cli.interrupts import leave_on_interrupt
from steelyard.hardware.probe.run import Subject

def measure(scale):
    print("measuring", flush=True)
    while True:
        time.sleep(0.01)
    yield

profiles.subjects = lambda directory: (Subject("forever", measure),)
leave_on_interrupt()  # as the command itself does first: whoever started the tests may have had Ctrl-C ignored
sys.exit(app.run(["probe", "--output", sys.argv[1]]))
"""


def test_ctrl_c_while_measuring(tmp_path):
    target = tmp_path / "out" / "machine.toml"
    command = [sys.executable, "-c", MEASURING_FOREVER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"measuring\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
    assert child.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert os.listdir(target.parent) == []


@pytest.mark.usefixtures("subjects")
def test_a_probe_that_was_disturbed_says_so_wherever_it_is_used(stored_probe):
    profiles.store_profile(replace(measured_profile(), busy=True), stored_probe)
    assert read_profile(stored_probe).busy
    assert profiles.known_machine().origin == "probe of 2026-01-31T12:00:00Z, taken while it was busy"


@pytest.mark.usefixtures("subjects")
def test_without_a_probe_the_machine_is_measured_once_and_that_is_kept(stored_probe, capsys):
    stored_probe.unlink()
    first, second = profiles.known_machine(), profiles.known_machine()
    assert first.origin == "quick measurement just now"
    assert second.origin == f"quick probe of {first.profile.measured_at}"
    assert second.profile == first.profile
    assert capsys.readouterr().err.count("measured this machine quickly") == 1


@pytest.mark.usefixtures("subjects")
@pytest.mark.parametrize("change", [{"cpu_model": "another"}, {"num_usable_cores": 999, "num_logical_cores": 999}])
def test_another_machines_probe_is_not_used(stored_probe, change):
    other = measured_profile()
    profiles.store_profile(replace(other, machine=replace(other.machine, **change)), stored_probe)
    assert profiles.known_machine().origin == "quick measurement just now"


@pytest.mark.usefixtures("subjects")
def test_a_broken_probe_is_ignored_aloud(stored_probe, capsys):
    stored_probe.write_text("nonsense")
    assert profiles.known_machine().origin == "quick measurement just now"
    assert f"ignored: {stored_probe}" in capsys.readouterr().err


@pytest.mark.usefixtures("subjects")
def test_a_cache_that_cannot_be_written_stops_nothing(stored_probe, capsys, monkeypatch):
    stored_probe.unlink()
    monkeypatch.setattr(profiles, "store_profile", lambda *a: next(_refused(None)))
    assert profiles.known_machine().origin == "quick measurement just now"
    assert "not kept" in capsys.readouterr().err


def test_fit_predicts_per_format(cli):
    fields = cli("fit", "--json").json
    assert fields["predicted_from"] == "probe of 2026-01-31T12:00:00Z"
    speeds = {one["name"]: one["speed"] for one in fields["formats"]}
    wide = speeds["float32"]
    assert wide["prompt_tokens"] == 512
    assert wide["ttft_s"] == pytest.approx(2 * wide["ttft_limit_s"])
    assert wide["decode_tokens_per_s"] == pytest.approx(wide["decode_limit_per_s"] / 2)
    assert speeds["bfloat16"]["decode_tokens_per_s"] is None, "the calibration does not cover it"
    assert speeds["bfloat16"]["decode_limit_per_s"] > wide["decode_limit_per_s"]
    text = cli("fit").out
    assert "TOKENS/S" in text
    assert "from the probe of 2026-01-31T12:00:00Z" in text


@pytest.mark.usefixtures("shared_model")
class TestWithModel:
    def test_bench_puts_predictions_beside(self, cli):
        sizes = ("--prompt-tokens", "16", "--output-tokens", "3", "--warmup", "0", "--repeat", "1")
        fields = cli("bench", "latency", *sizes, "--json").json
        for kind in ("prefill", "decode"):
            compared = fields["expected"][kind]
            assert compared["measured"] == fields[f"{kind}_tokens_per_s"]
            assert compared["predicted"] == pytest.approx(compared["limit"] / 2)
        text = cli("bench", "latency", *sizes)
        assert "PREDICTED" in text.out
        assert "probe of 2026-01-31" in text.err
        assert cli("bench", "latency", *sizes, "--json", "--no-expected").json["expected"] is None
        assert "PREDICTED" not in cli("bench", "latency", *sizes, "--no-expected").out

    def test_run_explains_when_asked(self, cli):
        words = ("run", "Once upon a time", "--raw", "-n", "3", "--temperature", "0")
        fields = json.loads(cli(*words, "--explain", "--json").out)
        assert fields["explain"]["decode"]["measured"] == fields["decode_tokens_per_s"]
        assert fields["explain"]["predicted_from"] == "probe of 2026-01-31T12:00:00Z"
        shown = cli(*words, "--explain").err
        for word in ("PREDICTED", "attention", "lm_head", "SHARE", "together", "prefill, one step", "mean of 2 steps"):
            assert word in shown
        decode = fields["explain"]["operators"]["decode"]
        assert [row["operator"] for row in decode] == list(OPERATORS)
        assert sum(row["share"] for row in decode) == pytest.approx(1)
        assert all(row["limit_s"] >= 0 and row["predicted_s"] >= 0 for row in decode)
        assert "explain" not in json.loads(cli(*words, "--json").out)
        assert "PREDICTED" not in cli(*words).err
