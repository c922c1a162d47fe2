"""What can be reached of a GPU from PyTorch and Triton: memory, caches, tensor cores, integer units, launches, PCIe.

After "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture" (arXiv:2402.13499, S06). Not reachable from here:
the latency of a single tensor-core instruction, shared memory's own latency, and distributed shared memory between
the blocks of a cluster – they need hand-written PTX. The DPX instructions are asked for in the form (add, then
maximum) that the compiler turns into them on Hopper; whether it did is not checked. Latencies need Triton; without it
they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from steelyard.core.units import MIB
from steelyard.hardware.probe.reading import Reading, Scale, Timing, Unit, best_of
from steelyard.kernels.triton_probe import MAX_ADD_OPS, chase_gpu, max_add_gpu, triton_installed

SUBJECT = "gpu"
READ, COPY, L2_READ = "read", "copy", "read, in L2"
LATENCY, LAUNCH, PINNED, PAGEABLE, DPX = "load", "launch", "pinned", "pageable", "max(a + b, c), int32"
_STREAM_BYTES = 2048 * MIB
_L2_BYTES = 16 * MIB
_CHASE_BYTES = (MIB // 4, 4 * MIB, 16 * MIB, 64 * MIB, 512 * MIB)
_CHASE_STEPS = 1 << 14
_COPY_BYTES = 256 * MIB
_MATRIX_SIZE = 8192
_LAUNCHES = 200
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def measure(scale: Scale, device: torch.device) -> Iterator[Reading]:
    """Yield everything that can be measured of one CUDA device; what this build cannot do is left out."""
    yield from _memory(scale, device)
    yield from _matrices(scale, device)
    yield from _host_links(scale, device)
    yield _launch(scale, device)
    if triton_installed():
        yield from _latencies(scale, device)
        yield _integers(scale, device)


def _memory(scale: Scale, device: torch.device) -> Iterator[Reading]:
    free, _ = torch.cuda.mem_get_info(device)
    size = min(_STREAM_BYTES, free // 4)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    near = source[: _L2_BYTES // 4]
    for name, factor, work, num_bytes in (
        (READ, 1, lambda: source.sum(), source.nbytes),
        (COPY, 2, lambda: target.copy_(source), source.nbytes),
        (L2_READ, 1, lambda: near.sum(), near.nbytes),
    ):
        timing = _best(work, device, scale.budget_s)
        yield _reading(name, factor * num_bytes / timing.best_s, Unit.BYTES_PER_S, timing, num_bytes)


def _matrices(scale: Scale, device: torch.device) -> Iterator[Reading]:
    size, flop = _MATRIX_SIZE, 2 * _MATRIX_SIZE**3
    for dtype in _DTYPES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        timing = _best(lambda: torch.mm(a, b), device, scale.budget_s)  # noqa: B023 - called at once
        yield _reading(str(dtype).removeprefix("torch."), flop / timing.best_s, Unit.FLOP_PER_S, timing, None)
    if torch.cuda.get_device_capability(device) >= (8, 9) and hasattr(torch, "_scaled_mm"):
        timing = _best(_float8_product(device), device, scale.budget_s)
        yield _reading("float8_e4m3fn", flop / timing.best_s, Unit.FLOP_PER_S, timing, None)
    x, y = (torch.randint(-8, 8, (size, size), device=device, dtype=torch.int8) for _ in range(2))
    timing = _best(lambda: torch._int_mm(x, y.t()), device, scale.budget_s)
    yield _reading("int8", flop / timing.best_s, Unit.FLOP_PER_S, timing, None)


def _float8_product(device: torch.device) -> Callable[[], object]:
    a, b = (torch.randn(_MATRIX_SIZE, _MATRIX_SIZE, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _host_links(scale: Scale, device: torch.device) -> Iterator[Reading]:
    there = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    for name, pin in ((PINNED, True), (PAGEABLE, False)):
        here = torch.zeros(_COPY_BYTES, dtype=torch.uint8, pin_memory=pin)
        for way, target, source in (("to the device", there, here), ("from the device", here, there)):
            timing = _best(lambda: target.copy_(source, non_blocking=True), device, scale.budget_s)  # noqa: B023
            yield _reading(f"{name}, {way}", _COPY_BYTES / timing.best_s, Unit.BYTES_PER_S, timing, _COPY_BYTES)


def _launch(scale: Scale, device: torch.device) -> Reading:
    """Time an empty piece of work, launched and waited for; many in a row hide behind one another."""
    one = torch.zeros(1, device=device)
    timing = _best(lambda: one.add_(1), device, scale.budget_s)
    return _reading(LAUNCH, timing.best_s, Unit.SECONDS, timing, None)


def _latencies(scale: Scale, device: torch.device) -> Iterator[Reading]:
    for size in _CHASE_BYTES:
        timing = _best(chase_gpu(size, _CHASE_STEPS, device), device, scale.budget_s)
        yield _reading(LATENCY, timing.best_s / _CHASE_STEPS, Unit.SECONDS, timing, size)


def _integers(scale: Scale, device: torch.device) -> Reading:
    timing = _best(max_add_gpu(device), device, scale.budget_s)
    return _reading(DPX, MAX_ADD_OPS / timing.best_s, Unit.OPS_PER_S, timing, None)


def _best(work: Callable[[], object], device: torch.device, budget_s: float) -> Timing:
    def done() -> None:
        work()
        torch.cuda.synchronize(device)

    return best_of(done, budget_s)


def _reading(name: str, value: float, unit: Unit, timing: Timing, size_bytes: int | None) -> Reading:
    return Reading(subject=SUBJECT, name=name, value=value, unit=unit, spread=timing.spread, size_bytes=size_bytes)
