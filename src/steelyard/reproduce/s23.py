"""S23 modern C++ abstraction: STREAM on our parallel layer beside STREAM in plain OpenMP.

The layer (``kernels/csrc/parallel/``) says *where* (targets: cores and memory near them), *how* (executors) and *what*
(algorithms); STREAM on it is :func:`steelyard.kernels.stream.run_stream`. The other program, ``s23_openmp.cpp`` beside
this file, is what one writes by hand; it is compiled when this runs, with the flags that the extension was built with.
Both run in turn on the same number of threads, on arrays of four times the last-level cache.

The paper's layer also reaches GPUs; ours does not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from steelyard.core.environment import CXX, compiler_words
from steelyard.core.errors import ResourceError
from steelyard.core.units import format_bytes
from steelyard.hardware.this_machine import available_memory_bytes, num_usable_cores
from steelyard.kernels.stream import ARRAYS_MOVED, ELEMENT_BYTES, StreamTimes, bytes_moved, run_stream
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "STREAM on the abstraction performs at least as well as the native program"
SOURCE = "s23_openmp.cpp"
# kernel_flags of CMakeLists.txt, and the standard set there.
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-falign-loops=64")
TOLERANCE = 1e-12
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHE_BYTES = 32 << 20
_COMPILE_TIMEOUT_S = 120
_RUN_TIMEOUT_S = 600


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S23 and return its table; the model and the seed play no part.

    Raises:
        ResourceError: if the extension, a C++ compiler or OpenMP is missing.
    """
    size = (1 << 18) if options.quick else array_size()
    pairs, rounds = (2, 3) if options.quick else (15, 10)
    threads = sorted({1, num_usable_cores()})
    with TemporaryDirectory(prefix="steelyard-s23-") as folder:
        program = compile_openmp(Path(folder))
        found = {count: run_pairs(program, count, size, rounds, pairs) for count in threads}
    return stamped(
        system="S23",
        claim=CLAIM,
        setup=(
            f"float64 arrays of {format_bytes(size * ELEMENT_BYTES)}, {' '.join(FLAGS)}; {pairs} pairs of runs in "
            f"turn, {rounds} rounds each; medians, and the median ratio of the pairs (above 1 ours is faster)"
        ),
        rows=tuple(row for count, runs in found.items() for row in rows(count, size, runs)),
        command=command_line("S23", options),
    )


Pair = tuple[StreamTimes, StreamTimes]
"""Our run and the OpenMP run beside it."""


def array_size() -> int:
    """Return elements per array: four times the last-level cache, but three arrays fit half of the free memory."""
    return min(4 * last_level_cache_bytes(), available_memory_bytes() // 6) // ELEMENT_BYTES


def last_level_cache_bytes(caches: Path = _CACHES) -> int:
    """Return the size of the largest cache that Linux lists in ``caches``; 32 MiB where it lists none."""
    sizes = [path.read_text(encoding="ascii").strip() for path in caches.glob("index*/size")]
    return max((int(size.removesuffix("K")) << 10 for size in sizes), default=_USUAL_CACHE_BYTES)


def compile_openmp(folder: Path) -> Path:
    """Compile the OpenMP program into ``folder`` and return its path.

    Raises:
        ResourceError: if there is no compiler, or none that knows OpenMP.
    """
    words = compiler_words()
    if shutil.which(words[0]) is None:
        problem = f"there is no C++ compiler called {words[0]!r}"
        raise ResourceError(problem, field=CXX, remedy="Install one, or name yours in the environment variable CXX")
    source, program = folder / SOURCE, folder / "stream"
    source.write_text(resources.files("steelyard.reproduce").joinpath(SOURCE).read_text(encoding="utf-8"))
    command = [*words, *FLAGS, "-fopenmp", str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    if done.returncode:
        last_line = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        problem = f"{words[0]} cannot compile an OpenMP program: {last_line}"
        raise ResourceError(problem, field=CXX, remedy="Name a compiler with OpenMP, such as g++, in CXX")
    return program


def run_pairs(program: Path, num_threads: int, size: int, rounds: int, pairs: int) -> list[Pair]:
    """Run ours and the OpenMP program in turn, ``pairs`` times."""
    return [
        (run_stream(num_threads, size, rounds), run_openmp(program, num_threads, size, rounds)) for _ in range(pairs)
    ]


def run_openmp(program: Path, num_threads: int, size: int, rounds: int) -> StreamTimes:
    """Run the OpenMP program once.

    Raises:
        ResourceError: if it fails.
    """
    command = [str(program), str(num_threads), str(size), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S, check=False)
    if done.returncode:
        problem = f"the OpenMP program failed with exit code {done.returncode}: {done.stderr.strip()}"
        raise ResourceError(problem, field="S23", remedy="Free some memory and run again")
    return parse_times(done.stdout.splitlines())


def parse_times(lines: Iterable[str]) -> StreamTimes:
    """Return what the program printed, one JSON object a line."""
    objects = [json.loads(line) for line in lines]
    seconds = {entry["kernel"]: tuple(entry["seconds"]) for entry in objects if "kernel" in entry}
    (worst_error,) = (entry["worst_error"] for entry in objects if "worst_error" in entry)
    return StreamTimes(seconds=seconds, worst_error=worst_error)


def rows(num_threads: int, size: int, pairs: list[Pair]) -> tuple[ReproductionRow, ...]:
    """Return one row per kernel.

    Raises:
        ResourceError: if a run computed something else than STREAM.
    """
    worst = max(times.worst_error for pair in pairs for times in pair)
    if worst > TOLERANCE:
        raise ResourceError(f"STREAM is wrong by {worst:.1e}", field="S23", remedy="Report it: this is a bug")
    return tuple(_row(kernel, num_threads, size, pairs) for kernel in ARRAYS_MOVED)


def _row(kernel: str, num_threads: int, size: int, pairs: list[Pair]) -> ReproductionRow:
    medians = [(median(ours.seconds[kernel]), median(openmp.seconds[kernel])) for ours, openmp in pairs]
    ours, openmp = (bytes_moved(kernel, size) / median(side) / 1e9 for side in zip(*medians, strict=True))
    return ReproductionRow(
        claim="≥ 1×",
        setup=f"{kernel}, {num_threads} thread{'s' if num_threads > 1 else ''}",
        ours=f"{ours:.1f} GB/s; OpenMP {openmp:.1f} GB/s",
        ratio=median(openmp_s / ours_s for ours_s, openmp_s in medians),
    )
