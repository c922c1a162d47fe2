"""The outcome of a reproduction: the claim, the setup and our numbers side by side, and where they come from.

A :class:`Reproduction` prints as a table and is kept as a JSON file. A ratio that falls short of the claim is reported
like any other.
"""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from steelyard import __version__
from steelyard.core.clock import utc_timestamp
from steelyard.core.errors import InputError
from steelyard.core.units import format_bytes
from steelyard.hardware.device import DeviceKind, Machine
from steelyard.hardware.this_machine import this_machine
from steelyard.reproduce.files import write_text_atomically

_PACKAGE = Path(__file__).resolve().parents[1]
_GIT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproductionRow:
    """One comparison.

    Attributes:
        claim: what the paper reports, with its unit, e.g. ``11× over request-at-a-time``; a dash if it reports none.
        setup: what we ran, in a few words.
        ours: what we measured, with its unit.
        ratio: our measured ratio between the mechanism and its baseline, if the row is one; above 1 is better.
    """

    claim: str
    setup: str
    ours: str
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio >= 0):
            raise InputError(f"{self.ratio} is no ratio", field="ratio", remedy="Give a number, 0 or more, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What came of running one system.

    Attributes:
        system: its number, ``S01`` … ``S88``.
        claim: the paper's headline.
        setup: model, load and machine of the paper against ours, in a sentence or two.
        machine: what it ran on.
        commit: of the source tree, marked if it was modified; the package's version outside of a checkout.
        command: runs it again.
        date: when it ran, UTC, ``YYYY-MM-DDTHH:MM:SSZ``.
    """

    system: str
    claim: str
    setup: str
    rows: tuple[ReproductionRow, ...]
    machine: str
    commit: str
    command: str
    date: str

    @property
    def ratios(self) -> tuple[float, ...]:
        """The measured ratios, in the order of the rows that have one."""
        return tuple(row.ratio for row in self.rows if row.ratio is not None)


def stamped(*, system: str, claim: str, setup: str, rows: tuple[ReproductionRow, ...], command: str) -> Reproduction:
    """Return the reproduction of these rows, with this machine, this source and this moment filled in."""
    return Reproduction(
        system=system,
        claim=claim,
        setup=setup,
        rows=rows,
        machine=describe_machine(this_machine()),
        commit=source_version(),
        command=command,
        date=utc_timestamp(),
    )


def render(reproduction: Reproduction) -> RenderableType:
    """Return the reproduction for a ``rich`` console: headline, table, origin."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("claim", "setup", "ours"):
        table.add_column(header, overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    for row in reproduction.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        table.add_row(Text(row.claim), Text(row.setup), Text(row.ours), ratio)
    head = Text.assemble((reproduction.system, "bold"), f"  {reproduction.claim}\n", reproduction.setup)
    origin = f"{reproduction.machine} · {reproduction.commit} · {reproduction.date}\n{reproduction.command}"
    return Group(head, table, Text(origin, style="dim"))


def print_reproduction(reproduction: Reproduction, console: Console | None = None) -> None:
    """Print the reproduction to ``console``, standard output if left out."""
    (console or Console()).print(render(reproduction))


def write_reproduction(reproduction: Reproduction, out_dir: Path) -> Path:
    """Write the reproduction as JSON into ``out_dir`` and return the file's path, ``S74-2025-01-31T120000Z.json``.

    Raises:
        StorageError: if it cannot be written; nothing is left half-written.
    """
    path = out_dir / f"{reproduction.system}-{reproduction.date.replace(':', '')}.json"
    content = {**asdict(reproduction), "ratios": reproduction.ratios}
    write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def describe_machine(machine: Machine) -> str:
    """Return the machine in one line: CPU, cores that may be used, memory, accelerators."""
    memory = format_bytes(machine.devices[0].memory[0].capacity_bytes)
    gpus = [
        f"{device.name} with {format_bytes(device.memory[0].capacity_bytes)}"
        for device in machine.devices
        if device.kind is DeviceKind.GPU
    ]
    return ", ".join([machine.cpu_model, f"{machine.num_usable_cores} cores", memory, *gpus])


def source_version(package: Path = _PACKAGE) -> str:
    """Return the commit of the checkout that ``package`` lies in as ``src/<package>``, else the package's version.

    A tree with changes that are not committed is marked ``-dirty``. Another project's checkout that an installed
    package happens to lie in does not count.
    """
    root = package.parents[1]
    if package.parent.name == "src" and (root / ".git").exists():
        words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return _package_version()
        return done.stdout.strip()
    return _package_version()


def _package_version() -> str:
    return f"steelyard {__version__}"
