"""Results on disk: all or nothing, the same bytes for the same inputs, and a page that says what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.core.errors import StorageError
from steelyard.cost.fitted import FittedSteps, Polynomial
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import Death, Strike
from steelyard.sim.report import html_report
from steelyard.sim.result import SimulationResult, Slo
from steelyard.sim.result_files import write_result
from steelyard.sim.simulate import SimulationOptions, simulate
from steelyard.sim.traces.types import Trace, TraceRequest

DECODES = Polynomial(20.0, 0.0, 1.0)
STEPS = FittedSteps(prefill=Polynomial(5.0, 0.02, 0.0), decode_small=DECODES, decode_large=DECODES, threshold=100)
GROUP = ReplicaGroup(name="a<b", count=2, steps=STEPS, engine=EngineConfig(max_model_len=512, num_kv_blocks=512))
CLUSTER = Cluster(groups=(GROUP,), faults=(Death(strike=Strike(machine="a<b-1", at_s=1.0), repair_s=0.5),))
TRACE = Trace(name="few", requests=tuple(TraceRequest(0.2 * number, 30, 40) for number in range(12)))


@pytest.fixture(scope="module")
def result() -> SimulationResult:
    return simulate(CLUSTER, TRACE, SimulationOptions(slo=Slo(ttft_s=0.1, tpot_s=0.05)))


def written(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_all_tables_are_there_and_the_same_bytes_come_again(tmp_path: Path, result: SimulationResult) -> None:
    page = html_report("few", {"fcfs": result})
    for name in ("one", "two"):
        write_result(tmp_path / name, {"fcfs": result}, {"seed": 0}, page)
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert one == two
    assert {name.rpartition(".")[0] for name in one} == {
        "summary", "report", "fcfs.requests", "fcfs.machines", "fcfs.samples", "fcfs.events",
    }  # fmt: skip
    figures = json.loads(one["summary.json"])
    assert (figures["seed"], figures["results"]["fcfs"]["events"]) == (0, {"died": 1, "repaired": 1})
    assert figures["results"]["fcfs"]["num_done"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_earlier_result_is_replaced_and_anything_else_is_not(tmp_path: Path, result: SimulationResult) -> None:
    directory = tmp_path / "result"
    for seed in (0, 1):
        write_result(directory, {"x": result}, {"seed": seed}, "page")
    assert json.loads((directory / "summary.json").read_text())["seed"] == 1
    foreign = tmp_path / "letters"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="no result of a simulation"):
        write_result(foreign, {"x": result}, {}, "page")
    assert (foreign / "letter.txt").read_text() == "dear"
    with pytest.raises(StorageError, match="cannot be written"):
        write_result(Path("/proc/nothing/here"), {"x": result}, {}, "page")


WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[3])
from test_result_files import CLUSTER, TRACE
from steelyard.sim.result_files import write_result
from steelyard.sim.simulate import simulate
result = simulate(CLUSTER, TRACE)
print("ready", flush=True)
sys.stdin.readline()
while True:
    write_result(pathlib.Path(sys.argv[1]), {"x": result}, {"seed": int(sys.argv[2])}, "page")
"""


def test_kill_9_while_results_are_written_leaves_an_old_one_or_a_new_one(
    tmp_path: Path, result: SimulationResult
) -> None:
    directory = tmp_path / "result"
    write_result(directory, {"x": result}, {"seed": 0}, "page")
    whole = sorted(written(directory))
    for wait_lines in range(5):
        command = [sys.executable, "-c", WRITER, str(directory), "1", str(Path(__file__).parent)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            writer.stdin.write("go\n")  # type: ignore[union-attr]
            writer.stdin.flush()  # type: ignore[union-attr]
            while wait_lines and not (tmp_path / ".result.new").exists():
                assert writer.poll() is None
            os.kill(writer.pid, signal.SIGKILL)
        kept = directory if directory.exists() else tmp_path / ".result.old"
        assert sorted(written(kept)) == whole
        assert json.loads((kept / "summary.json").read_text())["seed"] in (0, 1)
    write_result(directory, {"x": result}, {"seed": 2}, "page")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert json.loads((directory / "summary.json").read_text())["seed"] == 2


def test_the_page_needs_nothing_else_and_tells_events(result: SimulationResult) -> None:
    page = html_report("few & far", {"fcfs": result, "other": replace(result, events=())})
    assert "<script" not in page
    assert "http" not in page
    assert "few &amp; far" in page
    assert "a&lt;b-1 died at 1 s" in page
    assert page.count("died at") == 1
    assert "1 died, 1 repaired" in page
    for word in ("TTFT", "TPOT", "E2E", "goodput within the objective", "busy machines over time"):
        assert word in page
