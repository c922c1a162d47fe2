"""Records are found by their shape, whatever stands around them; what is left out is counted."""

import gzip

import pytest

from steelyard.core.errors import InputError
from steelyard.cost.learned.gemm import Gemm, Tile
from steelyard.cost.learned.gpperf import CUTLASS_FILE, GemmRuns, load_gemm_runs, parse_gemm_runs

BOARD = "NVIDIA GeForce RTX 4070, 8.9, 10501 MHz, 3105 MHz, 200.00 W, 47, Default, 1 MiB, 1 MiB, 1 MiB, 100 %, 0 %"
KERNEL = "cutlass_simt_sgemm_128x64_8x5_tn_align1"


def record(stamp=1731372849, sizes="512,1024,2048", ms="0.25", watts="70.03", kernel=KERNEL, scale="2,0.5") -> str:
    """Return one record as the script wrote it: the run, then six lines of the kernel's properties."""
    return (
        f"{stamp},{sizes},{kernel},tn,64,128,32,2,linear_combination,{scale},{ms},,{watts}, 2760, 10251, 47, 97, 0,"
        f"{BOARD},kernel_name,{kernel}\narithmetic_intensity,85.33\nuses_shared_memory,0\ncomputation_pattern,GEMM\n"
        "problem_size_m,512\nproblem_size_n,1024\nproblem_size_k,2048,.003,87902.151,6168.094\n"
    )


def test_a_record_is_read_whole():
    (run,) = parse_gemm_runs(record()).runs
    assert run.gemm == Gemm(
        m=512, n=1024, k=2048, tile=Tile(128, 64, 8, 5), transposed_a=True, scaled=True, accumulates=True
    )
    assert (run.asked_tile, run.seconds, run.watts, run.utilisation) == ((64, 128, 32), 0.25e-3, 70.03, 0.97)


def test_the_first_record_hangs_on_the_header_and_a_prompt_stands_before_it():
    text = "[me@host dir]$ cat results.csv\nEnergy_Joules,GFLOPS_per_Watt,TFLOPS" + record() + record(1731372850)
    assert parse_gemm_runs(text) == GemmRuns(parse_gemm_runs(record()).runs * 2, {})


def test_power_that_nobody_could_read_is_none():
    (run,) = parse_gemm_runs(record(watts="[N/A]")).runs
    assert run.watts is None


def test_what_is_left_out_is_counted_by_reason():
    text = "".join(
        [
            record(),
            record(),
            record(sizes="512,1024"),
            record(1731372851)[:150] + "\n",
            record(1731372852, ms="0"),
            record(1731372853, watts="much"),
            record(1731372854, sizes="0,1,1"),
            record(1731372855, kernel="cutlass_tensorop_s1688gemm_nn"),
        ]
    )
    found = parse_gemm_runs(text)
    assert len(found.runs) == 1
    assert found.dropped == {
        "the same run again": 1,
        "no time stamp and sizes before the kernel": 1,
        "half a record": 1,
        "a number that is none, or not above 0": 3,
        "a kernel of another family": 1,
    }


def test_files_without_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_gemm_runs(tmp_path)
    path = tmp_path / CUTLASS_FILE
    path.write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(InputError, match="holds no run"):
        load_gemm_runs(tmp_path)
    path.write_bytes(gzip.compress(record().encode()))
    assert len(load_gemm_runs(tmp_path).runs) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        load_gemm_runs(tmp_path)
