"""How far operators stay from their roofs here: a few factors per operator, measured once, that turn limits into
predictions.

An operator takes ``num_calls · overhead + longer + (1 − overlap) · shorter``, where longer and shorter are the two of
``flop / (peak · compute_efficiency)`` and ``bytes / (bandwidth · memory_efficiency)``. The roofline's kernel hides the
shorter side wholly (overlap 1); a real one begins each panel of weights by waiting for it, so with a few rows, where
both sides are alike, part of the shorter one shows. An efficiency above 1 is no mistake: what stays in a cache is read
faster than the memory's bandwidth allows.

A step goes through all weights in the same order as the step before, and a cache keeps what it can of them. The share
that it still holds (:func:`cached_share`) is taken to fall evenly from all, where a step's bytes fill the cache, to
nothing, where they are three times as many; measured on decoders of 4 to 157 MB with a cache of 32 MiB, that is right
within a tenth of the bytes. That share is read with ``cached_efficiency``.

Measuring the factors is the engine's work (:mod:`steelyard.engine.calibration`,
:mod:`steelyard.engine.native_calibration`), as they are those of its kernels.
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
        overlap: how much of the shorter side, computing or reading, passes while the longer one does: 0 to 1.
        cached_efficiency: ``memory_efficiency`` for bytes that are still in a cache from the step before; ``None`` if
            not known, or if no bytes are read again.
    """

    operator: str
    dtype: str
    compute_efficiency: float = 1.0
    memory_efficiency: float = 1.0
    overhead_s: float = 0.0
    overlap: float = 1.0
    cached_efficiency: float | None = None

    def __post_init__(self) -> None:
        for name in ("compute_efficiency", "memory_efficiency", "cached_efficiency"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{value} is not a positive number", field=name, remedy="Give a share above 0")
        if not (math.isfinite(self.overhead_s) and self.overhead_s >= 0):
            raise InputError(f"{self.overhead_s} is no duration", field="overhead_s", remedy="Give seconds, 0 or more")
        if not 0 <= self.overlap <= 1:
            raise InputError(f"{self.overlap} is no share", field="overlap", remedy="Give a number from 0 to 1")

    def seconds(self, compute_s: float, memory_s: float, num_calls: int = 1, cached: float = 0.0) -> float:
        """Return what calls take together whose roofs allow ``compute_s`` and ``memory_s``.

        Args:
            compute_s: of all calls.
            memory_s: of all calls.
            num_calls: how many.
            cached: share of their bytes that a cache holds still.
        """
        within = self.memory_efficiency if self.cached_efficiency is None else self.cached_efficiency
        read_s = memory_s * ((1 - cached) / self.memory_efficiency + cached / within)
        sides = compute_s / self.compute_efficiency, read_s
        return num_calls * self.overhead_s + max(sides) + (1 - self.overlap) * min(sides)


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
_NOTHING_CACHED = 3.0  # times the cache's capacity


def cached_share(num_bytes: float, cache_bytes: float) -> float:
    """Return what share of the bytes that every step reads a cache still holds from the step before.

    Args:
        num_bytes: read by a step.
        cache_bytes: capacity; 0 if there is no cache.
    """
    if cache_bytes <= 0:
        return 0.0
    return min(1.0, max(0.0, (_NOTHING_CACHED - num_bytes / cache_bytes) / (_NOTHING_CACHED - 1)))


def joined(first: Calibration, second: Calibration) -> Calibration:
    """Return the factors of two implementations in one, which must be of different number formats.

    Raises:
        InputError: if both have the same operator in the same format.
    """
    return Calibration(
        path=f"{first.path}, {second.path}", fits=(*first.fits, *second.fits), num_threads=first.num_threads
    )


def calibration_table(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as a TOML table."""
    fits = [{key: value for key, value in asdict(fit).items() if value is not None} for fit in calibration.fits]
    table: dict[str, Any] = {"path": calibration.path, "fits": fits}
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
