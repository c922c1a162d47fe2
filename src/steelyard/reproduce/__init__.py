"""Reproductions: one file per system, each a function from options to a report.

A file ``s74.py`` holds ``def reproduce(options: ReproduceOptions) -> Reproduction`` and is registered here. What
exists of all 88 systems, registered or not, is in :mod:`steelyard.reproduce.registry`.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.core.errors import InputError
from steelyard.reproduce import s01, s06, s23, s74
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.report import Reproduction

REPRODUCTIONS: dict[str, Callable[[ReproduceOptions], Reproduction]] = {
    "S01": s01.reproduce,
    "S06": s06.reproduce,
    "S23": s23.reproduce,
    "S74": s74.reproduce,
}


def find_reproduction(system: str) -> Callable[[ReproduceOptions], Reproduction]:
    """Return the function that reproduces ``system``, e.g. ``S74`` (upper or lower case).

    Raises:
        InputError: if there is none; it lists those that there are.
    """
    function = REPRODUCTIONS.get(system.upper())
    if function is None:
        there_are = ", ".join(REPRODUCTIONS) or "none yet"
        raise InputError(
            f"nothing reproduces {system!r} yet",
            field="system",
            remedy=f"There are: {there_are}; docs/systems.md says what exists of the others",
        )
    return function
