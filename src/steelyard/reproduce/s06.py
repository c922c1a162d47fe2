"""S06 Hopper dissection: the machine taken apart by measurement, CPU and GPU alike.

The paper dissects GPUs of three architectures (H800, RTX 4090, A100) with hand-written PTX. Here the same questions are
put to whatever the machine has: how far away and how wide is each memory, what do the matrix units reach per number
format, what does it cost to start work. Where there is no GPU, its rows say so. Not reached at all: latencies of single
tensor-core instructions, of shared memory, and of distributed shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.core.units import format_bytes
from steelyard.hardware.device import Device, DeviceKind, Machine
from steelyard.hardware.probe import gpu, latency
from steelyard.hardware.probe.description import described
from steelyard.hardware.probe.reading import Reading, find, largest
from steelyard.hardware.probe.run import measure_all, scale, subjects
from steelyard.hardware.this_machine import this_machine
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "tables of H800, RTX 4090 and A100: memories, tensor cores, DPX, distributed shared memory"
NO_GPU = "no GPU here"
NOT_REACHED = "not reached without hand-written PTX"
_NS = 1e9


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S06 and return its table."""
    found = measure_all(subjects(options.out_dir), scale(quick=options.quick))
    machine = described(this_machine(), found.readings, options.out_dir, latency.stated_caches())
    notes = f"; {'; '.join(found.notes)}" if found.notes else ""
    return stamped(
        system="S06",
        claim=CLAIM,
        setup=f"this machine, the best of many short rounds{', quick' if options.quick else ''}{notes}",
        rows=rows(machine, found.readings),
        command=command_line("S06", options),
    )


def rows(machine: Machine, readings: tuple[Reading, ...]) -> tuple[ReproductionRow, ...]:
    """Return the table: the CPU's memories, arithmetic and threads, then the same of the first GPU, if there is one."""
    gpus = [device for device in machine.devices if device.kind is DeviceKind.GPU]
    return (*_cpu_rows(machine.devices[0]), *_gpu_rows(gpus[0] if gpus else None, readings))


def _cpu_rows(cpu: Device) -> Iterator[ReproductionRow]:
    for cache in cpu.caches:
        sizes = ((cache.stated_bytes, "stated"), (cache.measured_bytes, "measured"))
        told = ", ".join(f"{format_bytes(size)} {word}" for size, word in sizes if size is not None)
        yield _row(
            "cache: latency, throughput",
            f"CPU, L{cache.level}, dependent loads",
            f"{_latency(cache.latency_s)}, {_rate(cache.bandwidth_bytes_per_s)} on one thread; "
            f"{told or format_bytes(cache.capacity_bytes)}",
        )
    tier = cpu.memory[0]
    yield _row(
        "global memory: latency, throughput",
        "CPU, memory",
        f"{_latency(tier.latency_s)}, {_rate(tier.bandwidth_bytes_per_s)} on all threads",
    )
    for peak in cpu.peaks:
        reached = "" if peak.matmul_flop_per_s is None else f"; PyTorch's product {_flop(peak.matmul_flop_per_s)}"
        yield _row("matrix units per number format", f"CPU, {peak.dtype}", f"{_flop(peak.flop_per_s)}{reached}")
    yield _row(
        "–",
        "CPU, thread pool: empty job; barrier",
        f"{_latency(cpu.launch_latency_s)}; {_latency(cpu.barrier_latency_s)}",
    )


def _gpu_rows(device: Device | None, readings: tuple[Reading, ...]) -> Iterator[ReproductionRow]:
    def value(name: str, show: str, factor: float) -> str:
        if device is None:
            return NO_GPU
        best = largest(find(readings, gpu.SUBJECT, name))
        return "not measured" if best is None else show.format(best * factor)

    loads = [(r.size_bytes or 0, r.value) for r in find(readings, gpu.SUBJECT, gpu.LATENCY)]
    told = "; ".join(f"{format_bytes(size)}: {_latency(seconds)}" for size, seconds in loads) or "not measured"
    yield _row("L2 and global memory: latency", "GPU, dependent loads by size", NO_GPU if device is None else told)
    yield _row("L2: throughput", "GPU, a sum that fits", value(gpu.L2_READ, "{:.0f} GB/s", 1e-9))
    yield _row("global memory: throughput", "GPU, read", value(gpu.READ, "{:.0f} GB/s", 1e-9))
    for dtype in ("float32", "bfloat16", "float16", "float8_e4m3fn", "int8"):
        yield _row("tensor cores per number format", f"GPU, {dtype}", value(dtype, "{:.0f} Tflop/s", 1e-12))
    yield _row("DPX instructions", f"GPU, {gpu.DPX}", value(gpu.DPX, "{:.0f} Gop/s", 1e-9))
    yield _row("–", "GPU, launch and wait", value(gpu.LAUNCH, "{:.1f} µs", 1e6))
    yield _row("–", "GPU, from pinned memory", value(f"{gpu.PINNED}, to the device", "{:.1f} GB/s", 1e-9))
    yield _row("shared memory: latency; wgmma latency; distributed shared memory", "GPU", NOT_REACHED)


def _row(claim: str, setup: str, ours: str) -> ReproductionRow:
    return ReproductionRow(claim=claim, setup=setup, ours=ours)


def _latency(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * _NS:.3g} ns"


def _rate(bytes_per_s: float | None) -> str:
    return "not measured" if bytes_per_s is None else f"{bytes_per_s / 1e9:.3g} GB/s"


def _flop(flop_per_s: float) -> str:
    return f"{flop_per_s / 1e9:.4g} Gflop/s"
