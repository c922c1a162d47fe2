"""Rows become characteristics in one form, whatever units a machine used; encodings know nothing but training runs."""

from pathlib import Path

import numpy as np
import pytest

from steelyard.core.errors import InputError
from steelyard.cost.learned.perfcast import (
    CHARACTERISTICS,
    GROUPS,
    BenchmarkRun,
    fit_encoding,
    load_benchmark_runs,
    parse_benchmark_runs,
    usual_scores,
)
from steelyard.reproduce.s39 import load_sample

ROW = {
    "kubernetes.pod_id": "pod-1",
    "RESULT.WorkloadName": "Stream",
    "RESULT.WorkloadPreset": "SSE",
    "RESULT.TestName": "Triad",
    "RESULT.Value": "394761.2",
    "META.metadata.cscope.stepping": "E5",
    "SVR.Power.TDP": "350",
    "SVR.CPU.Base Frequency": "2.1",
    "SVR.CPU.Maximum Frequency": "3.5",
    "SVR.CPU.All-core Maximum Frequency": "2.6",
    "SVR.CPU.Thread(s) per Core": "2",
    "SVR.CPU.Core(s) per Socket": "48",
    "SVR.CPU.Socket(s)": "2",
    "SVR.CPU.NUMA Node(s)": "8",
    "SVR.CPU.L1d Cache": "48",
    "SVR.CPU.L1i Cache": "32",
    "SVR.CPU.L2 Cache": "2048",
    "SVR.CPU.L3 Cache": "107520",
    "SVR.Accelerators": "QAT:2 DSA:8 IAX:0",
    "SVR.Power.Frequency (MHz)": "2100",
    "SVR.Memory.Automatic NUMA Balancing": "Disabled",
    "SVR.System.OS": "Linux",
    "Measure.DIMM.Population": "1DPC/1 Capacity",
    "Measure.DIMM.Num": "16",
    "Measure.DIMM.Total": "1024",
    "Measure.DIMM.Freq": "4800",
}
TOTALS = {"SVR.CPU.L1d Cache": "4.5", "SVR.CPU.L1i Cache": "3", "SVR.CPU.L2 Cache": "192", "SVR.CPU.L3 Cache": "210"}


def named(run: BenchmarkRun) -> dict[str, float | str]:
    return dict(zip([characteristic.name for characteristic in CHARACTERISTICS], run.values, strict=True))


def parsed(**changes: str) -> BenchmarkRun:
    (run,) = parse_benchmark_runs([{**ROW, **changes}]).runs
    return run


def test_a_row_is_read():
    run = parsed()
    assert (run.machine, run.test, run.score) == ("pod-1", "Triad", 394761.2)
    values = named(run)
    assert (values["qat"], values["dsa"], values["iax"]) == (2.0, 8.0, 0.0)
    assert (values["cores_per_socket"], values["os"]) == (48.0, "Linux")


def test_caches_given_as_totals_in_mib_come_to_the_same():
    (totals,) = parse_benchmark_runs([{**ROW, **TOTALS}]).runs
    assert named(totals) == named(parsed())


def test_what_is_left_out_is_counted():
    copy = {**ROW, "kubernetes.pod_id": "pod-1-copied"}
    rows = [ROW, copy, {**ROW, "RESULT.Value": "-3"}, {**ROW, "RESULT.Value": ""}, {**ROW, "Measure.DIMM.Num": "many"}]
    found = parse_benchmark_runs(rows)
    assert len(found.runs) == 1
    assert found.dropped == {"the same run again": 1, "a score not above 0": 1, "a number that is none": 2}


def test_files_that_are_no_sample_are_refused(tmp_path: Path):
    path = tmp_path / "train_data.csv"
    with pytest.raises(InputError, match="cannot be read"):
        load_benchmark_runs(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="lacks the column"):
        load_benchmark_runs(path)
    path.write_text(",".join(ROW) + "\n")
    with pytest.raises(InputError, match="holds no run"):
        load_benchmark_runs(path)


def test_the_shipped_sample_is_read_whole():
    train, test = load_sample(None)
    assert (len(train.runs), train.dropped) == (120, {"the same run again": 25})
    assert (len(test.runs), test.dropped) == (133, {"the same run again": 2})
    caches = {(named(run)["l1d_kib"], named(run)["l2_kib"]) for run in test.runs}
    assert caches == {(48.0, 2048.0)}


def test_encoding_standardises_by_training_runs_and_keeps_place_0_for_strangers():
    few, many = parsed(), parsed(**{"Measure.DIMM.Num": "24", "SVR.System.OS": "Ubuntu"})
    stranger = parsed(**{"Measure.DIMM.Num": "28", "SVR.System.OS": "BSD"})
    encoding = fit_encoding((few, many))
    names = [characteristic.name for characteristic in CHARACTERISTICS]
    codes = encoding.encode((few, many, stranger))
    assert codes[:, names.index("num_dimms")].tolist() == [-1, 1, 2]
    assert codes[:, names.index("os")].tolist() == [1, 2, 0]
    assert codes[:, names.index("tdp_w")].tolist() == [0, 0, 0]  # says nothing, breaks nothing
    columns = encoding.one_hot((few, many, stranger))
    num_words = sum(map(len, encoding.words))
    num_numbers = sum(not words for words in encoding.words)
    assert columns.shape == (3, num_words + num_numbers)
    assert np.isfinite(columns).all()


def test_machines_count_alike_in_what_is_usual():
    runs = (parsed(), parsed(), parsed(**{"RESULT.Value": "8", "kubernetes.pod_id": "pod-2"}))
    runs = (*runs[:2], runs[2])
    usual = usual_scores(runs)
    assert usual.logs(runs[:1])[0] == pytest.approx((np.log(394761.2) + np.log(8)) / 2)
    with pytest.raises(InputError, match="no training run has this test"):
        usual.logs((parsed(**{"RESULT.TestName": "Copy"}),))


def test_groups_are_those_of_the_data_set():
    assert GROUPS == ("cpu", "cache", "memory", "system", "workload")
