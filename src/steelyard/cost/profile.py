"""What a probe of a machine leaves behind: description, readings and calibration, in one TOML file.

The file is written by ``steelyard probe`` into the cache directory and read by everything that predicts. The key
``machine`` holds a description as any other, so a machine from a data sheet is a file without readings.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from steelyard.core.environment import cache_directory
from steelyard.core.errors import InputError, StorageError
from steelyard.core.toml_text import toml_text
from steelyard.cost.calibration import Calibration, calibration_from_table, calibration_table
from steelyard.hardware.device import Machine, machine_from_table, machine_table
from steelyard.hardware.probe.reading import Reading, Unit

FILE_NAME = "probe.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A machine, measured.

    Attributes:
        measured_at: UTC, ``YYYY-MM-DDTHH:MM:SSZ``; ``None`` for a description that nobody measured.
        quick: whether less time was taken, with more noise.
        busy: whether other programmes were found to disturb it.
        machine: the description that everything else reads.
        readings: all that was measured for it.
        calibration: of the engine's operators; ``None`` if they were not measured.
        notes: what could not be measured, in words.
    """

    machine: Machine
    measured_at: str | None = None
    quick: bool = False
    busy: bool = False
    readings: tuple[Reading, ...] = ()
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()


def profile_table(profile: Profile) -> dict[str, Any]:
    """Return the profile as a TOML table; what is unknown is left out."""
    table: dict[str, Any] = {"quick": profile.quick, "busy": profile.busy, "notes": list(profile.notes)}
    if profile.measured_at is not None:
        table = {"measured_at": profile.measured_at, **table}
    table["machine"] = machine_table(profile.machine)
    if profile.calibration is not None:
        table["calibration"] = calibration_table(profile.calibration)
    if profile.readings:
        table["readings"] = [reading_table(reading) for reading in profile.readings]
    return table


def profile_text(profile: Profile) -> str:
    """Return the profile as a TOML document."""
    return toml_text(profile_table(profile))


def profile_from_table(table: Mapping[str, Any]) -> Profile:
    """Return the profile of a table read by ``tomllib``.

    Raises:
        InputError: if a key is missing or unknown, or a value is impossible.
    """
    _check(table, Profile, "machine")
    calibration = table.get("calibration")
    return Profile(
        machine=machine_from_table(table["machine"]),
        measured_at=table.get("measured_at"),
        quick=bool(table.get("quick", False)),
        busy=bool(table.get("busy", False)),
        readings=tuple(_reading(entry) for entry in table.get("readings", ())),
        calibration=None if calibration is None else calibration_from_table(calibration),
        notes=tuple(table.get("notes", ())),
    )


def read_profile(path: Path) -> Profile | None:
    """Return the profile in a file, ``None`` if there is no such file.

    Raises:
        InputError: if it is not a profile; the file is named.
        StorageError: if it cannot be read.
    """
    try:
        return profile_from_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
        raise StorageError(problem, field=str(path), remedy="Make it readable, or remove it") from error
    except InputError as error:
        problem = f"{error.field}: {error.problem}"
        raise InputError(problem, field=str(path), remedy="Run 'steelyard probe' again") from error
    except (ValueError, TypeError, AttributeError) as error:
        problem = f"it is no description of a machine ({error})"
        raise InputError(problem, field=str(path), remedy="Run 'steelyard probe' again") from error


def profile_path() -> Path:
    """Return where this machine's profile is kept."""
    return cache_directory() / FILE_NAME


def profile_of(machine: Machine, path: Path) -> Profile | None:
    """Return the profile in a file, ``None`` if there is no such file or it tells of another machine.

    Another processor, another number of cores or other devices make another machine. Raises as :func:`read_profile`.
    """

    def marks(one: Machine) -> tuple[object, ...]:
        return one.cpu_model, one.num_usable_cores, [device.name for device in one.devices]

    profile = read_profile(path)
    return profile if profile is not None and marks(profile.machine) == marks(machine) else None


def reading_table(reading: Reading) -> dict[str, Any]:
    """Return one reading as a table; what does not apply is left out."""
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(reading).items()}
    return {key: value for key, value in plain.items() if value is not None}


def _reading(table: Mapping[str, Any]) -> Reading:
    _check(table, Reading, "subject", "name", "value", "unit")
    units = {unit.value: unit for unit in Unit}
    if table["unit"] not in units:
        raise InputError(f"{table['unit']!r} is no unit", field="unit", remedy=f"Use {', '.join(units)}")
    return Reading(**{**table, "unit": units[table["unit"]]})


def _check(table: Mapping[str, Any], kind: type, *needed: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in table:
        if key not in known:
            raise InputError(f"a {kind.__name__} has no such key", field=key, remedy=f"Use only {', '.join(known)}")
    for key in needed:
        if key not in table:
            raise InputError(f"is missing from a {kind.__name__}", field=key, remedy="Measure again")
