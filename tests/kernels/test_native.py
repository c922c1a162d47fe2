"""The compiled extension: found or missed explicitly, and the same bits on every instruction set."""

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

from steelyard.core.errors import ParamsError
from steelyard.kernels import native as module
from steelyard.kernels.native import native_available, native_installed, native_kernels
from steelyard.kernels.rms_norm import rms_norm, rms_norm_reference, rms_norm_torch


@pytest.fixture
def undecided(monkeypatch):
    """Forget what this process decided, before the test and after it."""
    monkeypatch.delenv("STEELYARD_NATIVE", raising=False)
    native_kernels.cache_clear()
    yield
    native_kernels.cache_clear()


@pytest.fixture
def missing(undecided, monkeypatch):
    monkeypatch.setattr(module, "MODULE", "steelyard.kernels._nowhere")


@pytest.mark.usefixtures("missing")
def test_missing_extension_is_told_once(caplog):
    with caplog.at_level(logging.INFO, logger="steelyard"):
        assert not native_installed()
        assert not native_available()
        assert native_kernels() is None
        assert native_kernels() is None
    assert [record.name for record in caplog.records] == ["steelyard"]
    assert "install a C++ compiler" in caplog.text


@pytest.mark.usefixtures("missing")
def test_everything_works_without_it():
    x, weight = torch.randn(3, 65), torch.randn(65)
    expected = rms_norm_reference(x.double(), weight.double(), 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected, rtol=2e-6, atol=0)


@pytest.mark.usefixtures("undecided")
def test_switched_off_in_silence(monkeypatch, caplog):
    monkeypatch.setenv("STEELYARD_NATIVE", "0")
    x, weight = torch.randn(3, 65), torch.randn(65)
    assert not native_available()
    assert torch.equal(rms_norm(x, weight, 1e-5), rms_norm_torch(x, weight, 1e-5))
    assert not caplog.records


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("value", ["yes", "2", "off"])
def test_switch_must_be_a_bit(monkeypatch, value):
    monkeypatch.setenv("STEELYARD_NATIVE", value)
    with pytest.raises(ParamsError, match="STEELYARD_NATIVE"):
        native_available()


@pytest.mark.usefixtures("undecided")
def test_broken_extension_is_not_mistaken_for_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "broken_kernels.py").write_text("raise ImportError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "MODULE", "broken_kernels")
    with pytest.raises(ImportError, match="undefined symbol"):
        native_kernels()


def test_asking_does_not_load_it():
    lines = ["import sys", "from steelyard.kernels import native", "native.native_installed()"]
    code = "; ".join([*lines, "sys.exit(native.MODULE in sys.modules)"])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "STEELYARD_NATIVE": "1"})


@pytest.mark.native
def test_baseline_is_always_there():
    assert native_kernels().isas()[0] == "baseline"


@pytest.mark.native
@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="variants are for x86-64")
def test_wide_instruction_sets_are_found():
    capability = torch.backends.cpu.get_cpu_capability()
    expected = {"AVX2": "avx2", "AVX512": "avx512"}.get(capability, "baseline")
    assert expected in native_kernels().isas()


def norm_on(isa, x, weight, eps=1e-5):
    out = torch.full_like(x, float("nan"))
    addresses = (x.data_ptr(), weight.data_ptr(), out.data_ptr())
    native_kernels().rms_norm_f32_on(isa, *addresses, x.shape[0], x.shape[1], eps)
    return out


@pytest.mark.native
@pytest.mark.parametrize("hidden", [1, 3, 15, 16, 17, 31, 32, 33, 63, 100, 576, 577, 2048, 4099])
def test_same_bits_on_every_instruction_set(hidden):
    x, weight = torch.randn(5, hidden) * 3, torch.randn(hidden)
    narrowest = norm_on("baseline", x, weight)
    for isa in native_kernels().isas():
        assert torch.equal(norm_on(isa, x, weight), narrowest)
    assert torch.equal(rms_norm(x, weight, 1e-5), narrowest)


@pytest.mark.native
@pytest.mark.parametrize("hidden", [1, 31, 33, 577])
def test_writes_nothing_past_its_rows(hidden):
    for isa in native_kernels().isas():
        buffer = torch.full((3 * hidden,), 7.0)
        out = buffer[hidden : 2 * hidden]
        x, weight = torch.randn(hidden), torch.randn(hidden)
        addresses = (x.data_ptr(), weight.data_ptr(), out.data_ptr())
        native_kernels().rms_norm_f32_on(isa, *addresses, 1, hidden, 1e-5)
        assert (buffer[:hidden] == 7).all()
        assert (buffer[2 * hidden :] == 7).all()
        assert not (out == 7).all()


@pytest.mark.native
def test_may_work_in_place():
    for isa in native_kernels().isas():
        x, weight = torch.randn(4, 77), torch.randn(77)
        expected = norm_on(isa, x, weight)
        native_kernels().rms_norm_f32_on(isa, x.data_ptr(), weight.data_ptr(), x.data_ptr(), 4, 77, 1e-5)
        assert torch.equal(x, expected)


@pytest.mark.native
def test_unavailable_instruction_set_is_refused():
    x = torch.randn(1, 8)
    with pytest.raises(ValueError, match="sse9"):
        norm_on("sse9", x, x[0])
