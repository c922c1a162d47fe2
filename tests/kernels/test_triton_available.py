"""Triton is asked for without being imported, and a folder of its name is not taken for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steelyard.kernels.triton_available import triton_installed, triton_usable


def test_interpreted_kernels_are_for_the_cpu_and_compiled_ones_for_cuda() -> None:
    assert triton_usable(torch.device("cpu")) == (triton_installed() and not torch.cuda.is_available())
    assert triton_usable(torch.device("cuda")) == (triton_installed() and torch.cuda.is_available())
    assert not triton_usable(torch.device("meta"))


def test_a_folder_called_triton_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert not triton_installed.__wrapped__()


def test_nothing_of_steelyard_imports_triton_unasked() -> None:
    code = "import sys, steelyard, steelyard.engine.async_llm; print('triton' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
