"""The measured machine that commands predict from: stored, or measured quickly and stored then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steelyard.cli.output import working, write_error_line
from steelyard.core.clock import utc_timestamp
from steelyard.core.errors import SteelyardError, StorageError
from steelyard.cost.calibration import Calibration, joined
from steelyard.cost.profile import Profile, profile_of, profile_path, profile_text
from steelyard.engine.calibration import DTYPES, calibrate
from steelyard.engine.native_calibration import calibrate_native
from steelyard.engine.prediction import QUANTISED_ARITHMETIC
from steelyard.hardware.device import Machine
from steelyard.hardware.probe import latency
from steelyard.hardware.probe.description import described
from steelyard.hardware.probe.run import measure_all, scale, subjects
from steelyard.hardware.this_machine import this_machine
from steelyard.kernels.native import native_available
from steelyard.reproduce.files import write_text_atomically

OPERATORS_TITLE = "the engine's operators"
_CALIBRATION_S = {False: 0.2, True: 0.05}


@dataclass(frozen=True, slots=True)
class KnownMachine:
    """A profile of this machine, and where it comes from, in words."""

    profile: Profile
    origin: str


def titles(directory: Path) -> list[str]:
    """Return what :func:`measure_profile` will measure, in order."""
    return [*(subject.title for subject in subjects(directory)), OPERATORS_TITLE]


def measure_profile(directory: Path, *, quick: bool, note: Callable[[str], None] = lambda title: None) -> Profile:
    """Measure this machine; ``note`` is told of each subject as it begins.

    Args:
        directory: whose disk is measured, through a temporary file.
        quick: take less time, with more noise.

    Raises:
        ResourceError: if not even the memory's size is known.
    """
    found = measure_all(subjects(directory), scale(quick=quick), lambda subject: note(subject.title))
    machine = described(this_machine(), found.readings, directory, latency.stated_caches())
    note(OPERATORS_TITLE)
    return Profile(
        measured_at=utc_timestamp(),
        quick=quick,
        busy=found.busy,
        machine=machine,
        readings=found.readings,
        calibration=_calibration(machine, quick=quick),
        notes=(*_limits(machine), *found.notes),
    )


def store_profile(profile: Profile, path: Path) -> None:
    """Write the profile to a file, whole or not at all.

    Raises:
        StorageError: if the disk is full or the path cannot be written.
    """
    write_text_atomically(path, profile_text(profile))


def known_machine() -> KnownMachine:
    """Return the stored profile of this machine; if there is none, measure quickly and store that.

    A profile of another processor, or of another number of cores, is not this machine's.
    """
    path = profile_path()
    stored = _stored(path)
    if stored is not None:
        disturbed = ", taken while it was busy" if stored.busy else ""
        return KnownMachine(stored, f"{'quick ' if stored.quick else ''}probe of {stored.measured_at}{disturbed}")
    with working("Measuring this machine quickly"):
        profile = measure_profile(path.parent, quick=True)
    write_error_line("measured this machine quickly; 'steelyard probe' measures it well")
    try:
        store_profile(profile, path)
    except StorageError as error:
        write_error_line(f"not kept: {error}")
    return KnownMachine(profile, "quick measurement just now")


def _stored(path: Path) -> Profile | None:
    try:
        return profile_of(this_machine(), path)
    except SteelyardError as error:
        write_error_line(f"ignored: {error}")
        return None


def _calibration(machine: Machine, *, quick: bool) -> Calibration | None:
    """Return the engine's factors, in a hurry those of its usual path only; without a known bandwidth none."""
    cpu, budget_s = machine.devices[0], _CALIBRATION_S[quick]
    if cpu.memory[0].bandwidth_bytes_per_s is None or not cpu.peaks:
        return None
    has_native = native_available() and any(peak.dtype == QUANTISED_ARITHMETIC for peak in cpu.peaks)
    if not has_native:
        return calibrate(cpu, DTYPES[:1] if quick else DTYPES, budget_s)
    native = calibrate_native(cpu, budget_s)
    return native if quick else joined(native, calibrate(cpu, DTYPES, budget_s))


def _limits(machine: Machine) -> tuple[str, ...]:
    if machine.num_usable_cores < machine.num_logical_cores:
        return (f"this process may use {machine.num_usable_cores} of {machine.num_logical_cores} cores",)
    return ()
