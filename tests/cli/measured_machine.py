"""A probe of this machine that nobody measured: round numbers to predict from."""

from __future__ import annotations

from dataclasses import replace

from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import OPERATORS
from steelyard.cost.profile import Profile
from steelyard.hardware.device import PeakRate
from steelyard.hardware.this_machine import this_machine


def measured_profile() -> Profile:
    """This machine with made-up rates: 1 Gflop/s, 1 GB/s, and operators that take twice as long as their limit."""
    machine = this_machine()
    cpu = machine.devices[0]
    tier = replace(cpu.memory[0], bandwidth_bytes_per_s=1e9)
    rates = tuple(PeakRate(dtype=dtype, flop_per_s=1e9) for dtype in ("float32", "bfloat16", "int8"))
    half = {"compute_efficiency": 0.5, "memory_efficiency": 0.5}
    fits = tuple(OperatorFit(operator=name, dtype=dtype, **half) for dtype in ("float32", "int8") for name in OPERATORS)
    return Profile(
        machine=replace(machine, devices=(replace(cpu, memory=(tier,), peaks=rates), *machine.devices[1:])),
        measured_at="2026-01-31T12:00:00Z",
        calibration=Calibration(path="torch", fits=fits),
    )
