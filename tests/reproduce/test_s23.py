"""S23: the OpenMP program is compiled and understood, its absence explained, and the table compares like with like."""

import os
import shutil
from pathlib import Path

import pytest

from steelyard.core.errors import ResourceError
from steelyard.hardware.this_machine import available_memory_bytes
from steelyard.kernels.native import native_available
from steelyard.kernels.stream import ARRAYS_MOVED, StreamTimes
from steelyard.reproduce import s23
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.s23 import (
    FLAGS,
    array_size,
    compile_openmp,
    last_level_cache_bytes,
    parse_times,
    reproduce,
    rows,
    run_openmp,
)

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
ROOT = Path(__file__).resolve().parents[2]


def times(seconds: float, worst_error: float = 0.0) -> StreamTimes:
    return StreamTimes(seconds=dict.fromkeys(ARRAYS_MOVED, (seconds, seconds, 9.0)), worst_error=worst_error)


@pytest.fixture(autouse=True)
def usual_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)


@needs_compiler
def test_the_openmp_program_computes_stream(tmp_path: Path) -> None:
    try:
        program = compile_openmp(tmp_path)
    except ResourceError as error:
        pytest.skip(str(error))
    found = run_openmp(program, num_threads=2, size=10_001, rounds=3)
    assert found.worst_error == 0.0
    assert list(found.seconds) == list(ARRAYS_MOVED)
    assert all(len(seconds) == 3 for seconds in found.seconds.values())
    with pytest.raises(ResourceError, match="failed"):
        run_openmp(program, num_threads=2, size=1 << 58, rounds=1)


@pytest.mark.native
@needs_compiler
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
def test_a_quick_run_compares_every_kernel() -> None:
    found = reproduce(ReproduceOptions(model="-", quick=True))
    threads = len({1, len(os.sched_getaffinity(0))}) if hasattr(os, "sched_getaffinity") else len(found.rows) // 4
    assert len(found.ratios) == len(found.rows) >= 4
    assert found.rows[0].setup == "copy, 1 thread"
    assert len(found.rows) <= 4 * threads


def test_a_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(ResourceError, match="'no-such-compiler'") as caught:
        compile_openmp(tmp_path)
    assert caught.value.field == "CXX"


def test_a_compiler_without_openmp_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho 'first' >&2\necho 'unsupported option -fopenmp' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(ResourceError, match="OpenMP program: unsupported option -fopenmp"):
        compile_openmp(tmp_path)


def test_reads_json_lines() -> None:
    lines = ['{"kernel": "copy", "seconds": [0.5, 0.25]}', '{"worst_error": 1e-3}']
    assert parse_times(lines) == StreamTimes(seconds={"copy": (0.5, 0.25)}, worst_error=1e-3)


def test_the_table_has_bandwidths_and_the_median_ratio_of_pairs() -> None:
    pairs = [(times(1.0), times(2.0)), (times(2.0), times(2.0)), (times(1.0), times(1.5))]
    table = rows(2, 1_000_000_000, pairs)
    assert [row.setup for row in table] == [f"{kernel}, 2 threads" for kernel in ARRAYS_MOVED]
    assert {row.ratio for row in table} == {1.5}
    assert table[0].ours == "16.0 GB/s; OpenMP 8.0 GB/s"
    assert table[3].ours == "24.0 GB/s; OpenMP 12.0 GB/s"


def test_a_wrong_result_is_no_result() -> None:
    with pytest.raises(ResourceError, match=r"wrong by 1\.0e-06"):
        rows(1, 10, [(times(1.0), times(1.0, worst_error=1e-6))])


def test_arrays_exceed_the_caches_and_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate(("48K\n", "1024K\n", "32768K\n")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size)
    assert last_level_cache_bytes(tmp_path) == 32 << 20
    assert last_level_cache_bytes(tmp_path / "nothing") > 0
    monkeypatch.setattr(s23, "last_level_cache_bytes", lambda: 1 << 20)
    assert array_size() * 8 == 4 << 20
    monkeypatch.setattr(s23, "last_level_cache_bytes", lambda: 1 << 50)
    assert 3 * 8 * array_size() <= available_memory_bytes()


def test_flags_are_those_of_the_extension() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"target_compile_options(kernel_flags INTERFACE {' '.join(FLAGS[1:])})" in text
