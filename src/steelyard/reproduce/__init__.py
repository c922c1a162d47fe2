"""Reproductions: one file per system, each a function from options to a report.

A file ``s74.py`` holds ``def reproduce(options: ReproduceOptions) -> Reproduction`` and is registered here by its
number. It is imported when it is asked for, so that one system's libraries are no other's burden. What exists of all 88
systems, registered or not, is in :mod:`steelyard.reproduce.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from steelyard.core.errors import InputError
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.report import Reproduction

REPRODUCTIONS: dict[str, str] = {
    "S01": "steelyard.reproduce.s01",
    "S06": "steelyard.reproduce.s06",
    "S07": "steelyard.reproduce.s07",
    "S12": "steelyard.reproduce.s12",
    "S14": "steelyard.reproduce.s14",
    "S17": "steelyard.reproduce.s17",
    "S19": "steelyard.reproduce.s19",
    "S23": "steelyard.reproduce.s23",
    "S27": "steelyard.reproduce.s27",
    "S34": "steelyard.reproduce.s34",
    "S39": "steelyard.reproduce.s39",
    "S43": "steelyard.reproduce.s43",
    "S45": "steelyard.reproduce.s45",
    "S53": "steelyard.reproduce.s53",
    "S64": "steelyard.reproduce.s64",
    "S74": "steelyard.reproduce.s74",
}
"""System → module whose ``reproduce`` redoes it."""


def find_reproduction(system: str) -> Callable[[ReproduceOptions], Reproduction]:
    """Return the function that reproduces ``system``, e.g. ``S74`` (upper or lower case).

    Raises:
        InputError: if there is none; it lists those that there are. Likewise if a library it needs is not installed.
    """
    module = REPRODUCTIONS.get(system.upper())
    if module is None:
        there_are = ", ".join(REPRODUCTIONS) or "none yet"
        raise InputError(
            f"nothing reproduces {system!r} yet",
            field="system",
            remedy=f"There are: {there_are}; docs/systems.md says what exists of the others",
        )
    try:
        function: Callable[[ReproduceOptions], Reproduction] = import_module(module).reproduce
    except ModuleNotFoundError as error:
        problem = f"{system.upper()} needs {error.name}, which is not installed"
        raise InputError(problem, field="system", remedy="pip install 'steelyard[plan]'") from error
    return function
