"""How far operators stay from their roofs here: a few factors per operator, measured once, that turn limits into
predictions.

An operator takes ``num_calls · overhead + max(flop / (peak · efficiency), bytes / (bandwidth · efficiency))``. An
efficiency above 1 is no mistake: what stays in a cache is read faster than the memory's bandwidth allows. Measuring
the factors is the engine's work (:mod:`steelyard.engine.calibration`), as they are those of its kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from steelyard.core.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFit:
    """One operator's factors in one number format.

    Attributes:
        operator: a name from :data:`steelyard.cost.operators.OPERATORS`.
        dtype: of the arithmetic, as PyTorch names it.
        compute_efficiency: share of the device's rate that it reaches when computing is what it waits for.
        memory_efficiency: share of the memory's bandwidth that it reaches when reading is what it waits for.
        overhead_s: of one call, however small.
    """

    operator: str
    dtype: str
    compute_efficiency: float = 1.0
    memory_efficiency: float = 1.0
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{value} is not a positive number", field=name, remedy="Give a share above 0")
        if not (math.isfinite(self.overhead_s) and self.overhead_s >= 0):
            raise InputError(f"{self.overhead_s} is no duration", field="overhead_s", remedy="Give seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The factors of all operators that were measured on one device.

    Attributes:
        path: which implementation they are of, such as ``torch``.
        num_threads: that it ran on; ``None`` on a GPU.
    """

    path: str
    fits: tuple[OperatorFit, ...]
    num_threads: int | None = None

    def __post_init__(self) -> None:
        keys = [(fit.operator, fit.dtype) for fit in self.fits]
        if len(set(keys)) != len(keys):
            raise InputError("an operator occurs twice", field="fits", remedy="Give one fit per operator and dtype")

    def covers(self, dtype: str) -> bool:
        """Return whether anything was measured in ``dtype``."""
        return any(fit.dtype == dtype for fit in self.fits)

    def fit(self, operator: str, dtype: str) -> OperatorFit:
        """Return an operator's factors; those of a perfect one if nobody measured it."""
        for fit in self.fits:
            if (fit.operator, fit.dtype) == (operator, dtype):
                return fit
        return OperatorFit(operator=operator, dtype=dtype)


IDEAL = Calibration(path="ideal", fits=())


def calibration_table(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as a TOML table."""
    table: dict[str, Any] = {"path": calibration.path, "fits": [asdict(fit) for fit in calibration.fits]}
    if calibration.num_threads is not None:
        table["num_threads"] = calibration.num_threads
    return table


def calibration_from_table(table: Mapping[str, Any]) -> Calibration:
    """Return the calibration of a table read by ``tomllib``.

    Raises:
        InputError: if a key is missing or unknown, or a value is impossible.
    """
    _check_keys(table, (field.name for field in fields(Calibration)), ("path",))
    fits = []
    for entry in table.get("fits", ()):
        _check_keys(entry, (field.name for field in fields(OperatorFit)), ("operator", "dtype"))
        fits.append(OperatorFit(**entry))
    return Calibration(path=table["path"], fits=tuple(fits), num_threads=table.get("num_threads"))


def _check_keys(table: Mapping[str, Any], known: Iterable[str], needed: tuple[str, ...]) -> None:
    allowed = set(known)
    for key in table:
        if key not in allowed:
            remedy = f"Use only {', '.join(sorted(allowed))}"
            raise InputError("a calibration has no such key", field=key, remedy=remedy)
    for key in needed:
        if key not in table:
            raise InputError("is missing from a calibration", field=key, remedy="Measure again")
