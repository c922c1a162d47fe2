"""The roofline's picture: sound SVG with every roof and every kernel, at the right places."""

import importlib.util
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from steelyard.core.errors import InputError
from steelyard.hardware.device import Cache, Device, DeviceKind, MemoryTier, PeakRate
from steelyard.kernels.native import native_available

FILE = Path(__file__).parents[2] / "benchmarks" / "plot_roofline.py"
SPEC = importlib.util.spec_from_file_location("plot_roofline", FILE)
plot = importlib.util.module_from_spec(SPEC)
sys.modules["plot_roofline"] = plot
SPEC.loader.exec_module(plot)

DEVICE = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1, bandwidth_bytes_per_s=4e10),),
    peaks=(PeakRate(dtype="float32", flop_per_s=5e11), PeakRate(dtype="int8", flop_per_s=2e12)),
    caches=(Cache(level=1, capacity_bytes=1, bandwidth_bytes_per_s=3e11), Cache(level=2, capacity_bytes=2)),
)
KERNELS = plot.read_kernels('[{"name": "a < b & c", "flop": 2e9, "bytes": 1e9, "seconds": 0.1}]')
NAMESPACE = "{http://www.w3.org/2000/svg}"


def test_draws_every_roof_and_every_kernel():
    root = ElementTree.fromstring(plot.picture(DEVICE, KERNELS, "A & B"))
    texts = [element.text for element in root.iter(f"{NAMESPACE}text")]
    assert {"A & B", "float32 500 G", "int8 2 T", "memory 40 GB/s", "L1, one thread, 300 GB/s", "a < b & c"} <= set(
        texts
    )
    assert len(list(root.iter(f"{NAMESPACE}polyline"))) == 2
    assert len(list(root.iter(f"{NAMESPACE}circle"))) == 1
    for circle in root.iter(f"{NAMESPACE}circle"):
        assert 0 < float(circle.get("cx")) < plot.WIDTH
        assert 0 < float(circle.get("cy")) < plot.HEIGHT


def test_slopes_that_are_alike_have_names_apart():
    caches = tuple(Cache(level=level, capacity_bytes=level, bandwidth_bytes_per_s=1e11) for level in (2, 3))
    device = replace(DEVICE, caches=caches)
    root = ElementTree.fromstring(plot.picture(device, KERNELS, ""))
    places = sorted(float(text.get("y")) for text in root.iter(f"{NAMESPACE}text") if "GB/s" in (text.text or ""))
    assert all(below - above >= 14 for above, below in pairwise(places))


def test_measures_our_own_kernels(monkeypatch):
    if not native_available():
        pytest.skip("the extension is not built")
    monkeypatch.setattr(plot, "PRODUCTS", (("q4_1", (64, 64), (1, 2)), ("q8_0", (64, 64), (1,))))
    monkeypatch.setattr(plot, "DECODES", {"2 × 32": [32, 32]})
    monkeypatch.setattr(plot, "NORM", (4, 64))
    monkeypatch.setattr(plot, "ARGMAX_ROWS", 2)
    monkeypatch.setattr(plot.bench_attention, "PREFILLS", (32,))
    monkeypatch.setattr(plot.bench_attention, "ROUNDS", 1)
    monkeypatch.setattr(plot.bench_qgemm, "COPIES_BYTES", 1 << 16)
    monkeypatch.setattr(plot.bench_qgemm, "BUDGET_S", 0.0)
    monkeypatch.setattr(plot.bench_qgemm, "best_s", lambda call: plot.bench_qgemm.elapsed_s(call, 1))
    kernels = {kernel.name: kernel for kernel in plot.measured_kernels()}
    assert list(kernels) == [
        "q4 product, 1 row",
        "q4 product, 2 rows",
        "q8 product, 1 row",
        "attention, prompt of 32",
        "attention, decode 2 × 32",
        "RMS norm, 4 rows",
        "argmax, 2 rows",
    ]
    assert kernels["q4 product, 2 rows"].flop == 2 * 2 * 64 * 64
    assert kernels["attention, prompt of 32"].flop == 4 * 9 * 64 * 32 * 33 / 2
    assert all(kernel.seconds > 0 and kernel.intensity > 0 for kernel in kernels.values())


def test_a_kernel_at_the_roof_lies_on_it():
    seconds = 1e9 / DEVICE.bandwidth_bytes_per_s
    at_roof = plot.Kernel("k", flop=1e9, num_bytes=1e9, seconds=seconds)
    assert at_roof.flop_per_s == pytest.approx(DEVICE.bandwidth_bytes_per_s * at_roof.intensity)
    scales = plot.Scales((1e9, 1e13))
    assert scales.y(1e13) == plot.TOP
    assert scales.y(1e9) == plot.HEIGHT - plot.BOTTOM
    assert scales.y(1e11) == pytest.approx((plot.TOP + plot.HEIGHT - plot.BOTTOM) / 2)


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "k", "flop": 1, "bytes": 1}]',
        '[{"name": "k", "flop": 1, "bytes": 1, "seconds": 1, "colour": 2}]',
        '[{"name": "k", "flop": 1, "bytes": 0, "seconds": 1}]',
        "[3]",
    ],
)
def test_incomplete_kernels_are_refused(text):
    with pytest.raises(InputError):
        plot.read_kernels(text)
