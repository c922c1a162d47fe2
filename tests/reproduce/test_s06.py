"""S06's table: what was measured is in it, and what was not is said."""

from dataclasses import replace

from steelyard.hardware.device import Cache, Device, DeviceKind, Machine, MemoryTier, PeakRate
from steelyard.hardware.probe.reading import Reading, Unit
from steelyard.reproduce import s06
from steelyard.reproduce.options import ReproduceOptions

CPU = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 34, bandwidth_bytes_per_s=4e10, latency_s=1.25e-7),),
    peaks=(PeakRate(dtype="float32", flop_per_s=5e11, matmul_flop_per_s=2e11),),
    caches=(Cache(level=1, capacity_bytes=48 << 10, stated_bytes=48 << 10, latency_s=1.2e-9),),
    barrier_latency_s=2e-7,
)
MACHINE = Machine(name="m", cpu_model="c", num_logical_cores=2, num_usable_cores=2, devices=(CPU,))
GPU = Device(name="cuda:0", kind=DeviceKind.GPU, memory=CPU.memory)


def table(machine, readings=()):
    return {row.setup: row.ours for row in s06.rows(machine, tuple(readings))}


def test_the_cpu_is_taken_apart():
    ours = table(MACHINE)
    assert ours["CPU, L1, dependent loads"] == "1.2 ns, not measured on one thread; 48.00 KiB stated"
    assert ours["CPU, memory"] == "125 ns, 40 GB/s on all threads"
    assert ours["CPU, float32"] == "500 Gflop/s; PyTorch's product 200 Gflop/s"
    assert ours["CPU, thread pool: empty job; barrier"] == "not measured; 200 ns"


def test_without_a_gpu_its_rows_say_so():
    gpu = {setup: ours for setup, ours in table(MACHINE).items() if setup.startswith("GPU")}
    assert gpu.pop("GPU") == s06.NOT_REACHED
    assert len(gpu) >= 10
    assert set(gpu.values()) == {s06.NO_GPU}


def test_a_gpus_readings_are_shown_and_missing_ones_named():
    readings = (
        Reading(subject="gpu", name="float8_e4m3fn", value=1.3e15, unit=Unit.FLOP_PER_S),
        Reading(subject="gpu", name="load", value=2.6e-7, unit=Unit.SECONDS, size_bytes=4 << 20),
    )
    ours = table(replace(MACHINE, devices=(CPU, GPU)), readings)
    assert ours["GPU, float8_e4m3fn"] == "1300 Tflop/s"
    assert ours["GPU, dependent loads by size"] == "4.00 MiB: 260 ns"
    assert ours["GPU, bfloat16"] == "not measured"


def test_runs_with_what_can_be_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(s06, "subjects", lambda directory: ())
    done = s06.reproduce(ReproduceOptions(model="m", out_dir=tmp_path, quick=True))
    assert done.system == "S06"
    assert "quick" in done.setup
    assert done.rows
