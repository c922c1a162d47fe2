"""Every kernel compiles for a Hopper GPU, also where there is none; 16-bit products use its matrix instructions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")

SCRIPT = Path(__file__).parent / "compile_for_hopper.py"


def test_every_kernel_compiles_for_hopper_without_spilling(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert {kernel for kernel, *_ in lines} == {
        "_whole_kernel", "_split_kernel", "_merge_kernel", "_product_kernel", "_add_parts_kernel",
        "_add_rms_norm_kernel", "_swiglu_kernel", "_write_kernel", "_rotate_and_write_kernel",
    }  # fmt: skip
    for kernel, dtype, matrix, spills in lines:
        assert spills == "spills=0", kernel
        multiplies = kernel in ("_whole_kernel", "_split_kernel", "_product_kernel")
        assert (matrix == "wgmma") == (multiplies and dtype != "fp32"), (kernel, dtype)
