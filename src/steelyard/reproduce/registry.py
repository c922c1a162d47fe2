"""What exists of the 88 systems: :func:`load_systems` reads ``systems.toml``, :func:`systems_markdown` prints it.

python -m steelyard.reproduce.registry docs/systems.md
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from steelyard.core.errors import InputError
from steelyard.reproduce.files import write_text_atomically

NUM_SYSTEMS = 88
AREAS = {
    "A": "Engine and serving",
    "B": "Mixture of experts and expert ensembles",
    "C": "Image, video and neural graphics",
    "D": "Training",
    "E": "Knowing the hardware: measuring, predicting, planning",
    "F": "Accelerators that can only be simulated",
    "G": "Model design under a hardware budget",
    "H": "Graphs and sparse data",
    "I": "Environments and agents",
    "J": "Portability",
}
_KEYS = ("id", "area", "name", "mechanism", "state", "module", "measured")


class SystemState(Enum):
    """How far a system is."""

    WORKS = "works"
    PARTLY = "partly"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system.

    Attributes:
        id: ``S01`` … ``S88``.
        area: a key of :data:`AREAS`.
        name: its short title.
        mechanism: what it does, in one line.
        module: where it lives; ``None`` until it does.
        measured: the last measured result in one line; ``None`` until there is one.
    """

    id: str
    area: str
    name: str
    mechanism: str
    state: SystemState
    module: str | None
    measured: str | None


def load_systems() -> tuple[System, ...]:
    """Return all systems in the order of their numbers.

    Raises:
        InputError: if ``systems.toml`` breaks a rule; it names the system and the key.
    """
    text = resources.files("steelyard.reproduce").joinpath("systems.toml").read_text(encoding="utf-8")
    return parse_systems(text)


def parse_systems(text: str) -> tuple[System, ...]:
    """Return the systems of a TOML text; see :func:`load_systems`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong("systems.toml", f"is not TOML ({error})") from None
    systems = tuple(_system(entry) for entry in table.get("systems", ()))
    expected = [f"S{number:02}" for number in range(1, NUM_SYSTEMS + 1)]
    found = [system.id for system in systems]
    if found != expected:
        first = next((one for one, other in zip(found, expected, strict=False) if one != other), f"{len(found)} tables")
        raise _wrong("systems", f"are not S01 to S{NUM_SYSTEMS} in order ({first} is out of place)")
    return systems


def systems_markdown() -> str:
    """Return ``docs/systems.md``: counts, then one table per area."""
    systems = load_systems()
    return "\n".join([*_introduction(systems), *(line for area in AREAS for line in _area_section(area, systems))])


def main(arguments: list[str]) -> None:
    """Write the page to the path given, or print it."""
    page = systems_markdown()
    if arguments:
        write_text_atomically(Path(arguments[0]), page)
    else:
        sys.stdout.write(page)


def _system(entry: Mapping[str, Any]) -> System:
    name = str(entry.get("id", "a table without id"))
    for key in _KEYS:
        value = entry.get(key)
        if not isinstance(value, str) or "\n" in value or "|" in value:
            raise _wrong(f"{name}.{key}", "is not one line of text without |")
    if unknown := set(entry) - set(_KEYS):
        raise _wrong(f"{name}.{min(unknown)}", "is no key of a system")
    states = {state.value: state for state in SystemState}
    if entry["state"] not in states:
        raise _wrong(f"{name}.state", f"{entry['state']!r} is none of {', '.join(states)}")
    system = System(
        id=name,
        area=entry["area"],
        name=entry["name"],
        mechanism=entry["mechanism"],
        state=states[entry["state"]],
        module=entry["module"] or None,
        measured=entry["measured"] or None,
    )
    _check(system)
    return system


def _check(system: System) -> None:
    if system.area not in AREAS:
        raise _wrong(f"{system.id}.area", f"{system.area!r} is none of {', '.join(AREAS)}")
    for key, text in (("name", system.name), ("mechanism", system.mechanism)):
        if not text:
            raise _wrong(f"{system.id}.{key}", "is empty")
    if (system.module is None) != (system.state is SystemState.NOT_BEGUN):
        raise _wrong(f"{system.id}.module", f"does not go with the state {system.state.value!r}")
    if system.state is SystemState.WORKS and system.measured is None:
        raise _wrong(f"{system.id}.measured", "is empty, but a system works only when something was measured")


def _wrong(field: str, problem: str) -> InputError:
    return InputError(problem, field=field, remedy="Correct systems.toml")


def _introduction(systems: tuple[System, ...]) -> Iterator[str]:
    counts = Counter(system.state for system in systems)
    yield "# The systems"
    yield ""
    yield f"What exists of the {len(systems)} systems that Steelyard sets out to contain – " + (
        ", ".join(f"{state.value}: {counts[state]}" for state in SystemState) + "."
    )
    yield "A system *works* when `steelyard reproduce` runs it, prints the paper's claim beside our measured result,"
    yield "and a test pins the mechanism."
    yield ""
    yield "Generated from `src/steelyard/reproduce/systems.toml` by"
    yield "`python -m steelyard.reproduce.registry docs/systems.md`; edit that file, not this page."
    yield ""


def _area_section(area: str, systems: tuple[System, ...]) -> Iterator[str]:
    yield f"## {area}. {AREAS[area]}"
    yield ""
    yield "| # | system | mechanism | state | module | measured |"
    yield "|---|---|---|---|---|---|"
    for system in systems:
        if system.area == area:
            module = f"`{system.module}`" if system.module else ""
            cells = (system.id, system.name, system.mechanism, system.state.value, module, system.measured or "")
            yield "| " + " | ".join(cells) + " |"
    yield ""


if __name__ == "__main__":
    main(sys.argv[1:])
