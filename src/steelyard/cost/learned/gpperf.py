"""Reading the measurements of GPPerf (S12): matrix products of CUTLASS on an RTX 4070, written by a shell script.

A record is one long line of the run and six short ones of its kernel. The script's header lost its line break, so the
first record hangs on it; a prompt, a log line or half a record may stand anywhere. Records are found by their shape,
never by their place, and what is left out is counted by reason.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.errors import InputError
from steelyard.cost.learned.gemm import Gemm, Tile

CUTLASS_FILE = "cutlass_results_partial_20241114.csv.gz"
_KERNEL = re.compile(r"cutlass_\w+?_(\d+)x(\d+)_(\d+)x(\d+)_(nn|nt|tn|tt)_align\d+")
_RUN = re.compile(r"(\d{10}),(\d+),(\d+),(\d+),(cutlass_[^,]*),(.*)$")
_NUM_REST = 30  # fields of a whole run after its kernel's name
_UNREAD = "[N/A]"


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRun:
    """One measured run.

    Attributes:
        gemm: what was computed, with the tile of the kernel that computed it.
        asked_tile: the tile that the script asked for, which is not what ran (see docs/prediction.md).
        seconds: mean of the profiler's repetitions.
        watts: of the board, read once near the run; ``None`` if the driver gave no number.
        utilisation: share of time that the board was busy before ``watts`` was read, 0 to 1.
    """

    gemm: Gemm
    asked_tile: tuple[int, int, int]
    seconds: float
    watts: float | None
    utilisation: float


@dataclass(frozen=True, slots=True)
class GemmRuns:
    """All runs of a file, and how many records were left out, by reason."""

    runs: tuple[GemmRun, ...]
    dropped: dict[str, int]


def load_gemm_runs(data_dir: Path) -> GemmRuns:
    """Return the CUTLASS runs in ``data_dir``.

    Raises:
        InputError: if the file is missing or holds no run.
    """
    path = data_dir / CUTLASS_FILE
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    except (OSError, EOFError) as error:
        remedy = "Give --data the directory that holds GPPerf's measurements"
        raise InputError("cannot be read", field=str(path), remedy=remedy) from error
    runs = parse_gemm_runs(text)
    if not runs.runs:
        raise InputError("holds no run", field=str(path), remedy="Give GPPerf's results as they were published")
    return runs


def parse_gemm_runs(text: str) -> GemmRuns:
    """Return the runs of a results file; lines that begin no record belong to the one before or to nobody."""
    dropped: Counter[str] = Counter()
    runs: dict[tuple[object, ...], GemmRun] = {}
    for line in _long_lines(text):
        found = _parse_run(line)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        stamp, run = found
        key = (stamp, run.gemm, run.asked_tile)
        if key in runs:
            dropped["the same run again"] += 1
        runs[key] = run
    return GemmRuns(tuple(runs.values()), dict(dropped))


def _long_lines(text: str) -> Iterator[str]:
    """Yield the lines that name a kernel and look like a run, not those of a kernel's properties."""
    for line in text.splitlines():
        if "cutlass_" in line and line.count(",") > 3:
            yield line


def _parse_run(line: str) -> tuple[str, GemmRun] | str:
    """Return a line's time stamp and run, or why there is none."""
    match = _RUN.search(line)
    if match is None:
        return "no time stamp and sizes before the kernel"
    stamp, m, n, k, name, rest = match.groups()
    fields = [field.strip() for field in rest.split(",")]
    kernel = _KERNEL.fullmatch(name)
    if kernel is None:
        return "a kernel of another family"
    if len(fields) < _NUM_REST:
        return "half a record"
    try:
        return stamp, _run(m, n, k, kernel, fields)
    except (ValueError, InputError):
        return "a number that is none, or not above 0"


def _run(m: str, n: str, k: str, kernel: re.Match[str], fields: list[str]) -> GemmRun:
    layout, tile_m, tile_n, tile_k, _stages, _epilogue, alpha, beta, milliseconds, _, watts = fields[:11]
    return GemmRun(
        gemm=Gemm(
            m=int(m),
            n=int(n),
            k=int(k),
            tile=Tile(*(int(kernel[group]) for group in (1, 2, 3, 4))),
            transposed_a=layout[0] == "t",
            transposed_b=layout[1] == "t",
            scaled=float(alpha) != 1,
            accumulates=float(beta) != 0,
        ),
        asked_tile=(int(tile_m), int(tile_n), int(tile_k)),
        seconds=_positive(milliseconds) / 1e3,
        watts=None if watts == _UNREAD else _positive(watts),
        utilisation=float(fields[14]) / 100,
    )


def _positive(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(text)
    return number
