"""Measuring a cold start: from the start of a fresh process to its first token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from steelyard.core.clock import Stopwatch
from steelyard.core.errors import EngineStoppedError


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupResult:
    """One cold start, seconds.

    Attributes:
        startup_s: from the start of the process to its first token.
        load_s: of that, loading the model.
        ttft_s: of that, the engine's time to first token.
    """

    startup_s: float
    load_s: float
    ttft_s: float

    @property
    def import_s(self) -> float:
        """The rest: starting Python and importing."""
        return self.startup_s - self.load_s - self.ttft_s


def measure_startup(
    arguments: Sequence[str], *, warmup: int, repeat: int, note: Callable[[str], None]
) -> list[StartupResult]:
    """Start a process that answers one request, ``warmup + repeat`` times, and return the measured ones.

    Args:
        arguments: of ``steelyard bench latency``, which must ask for one request of one output token.
        note: told of each start.

    Raises:
        EngineStoppedError: if a process fails; with its own words.
    """
    results = []
    for index in range(warmup + repeat):
        result = start_once(arguments)
        note(f"{'warm-up' if index < warmup else 'start'}: {result.startup_s:.2f} s to the first token")
        if index >= warmup:
            results.append(result)
    return results


def start_once(arguments: Sequence[str]) -> StartupResult:
    """Start one process and return its times; it prints its JSON as soon as it has its token."""
    command = [sys.executable, "-m", "steelyard.cli.main", "bench", "latency", "--json", *arguments]
    with Stopwatch() as watch:
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
        except BaseException:
            child.kill()
            raise
    _, notes = child.communicate()
    if child.returncode != 0:
        problem = f"the process ended with exit code {child.returncode}"
        raise EngineStoppedError(problem, field="startup", remedy=f"It said: {notes.strip()}")
    said = json.loads(line)
    return StartupResult(startup_s=watch.elapsed_s, load_s=said["load_s"], ttft_s=said["ttft_s"]["p50"])


def median_startup(results: Sequence[StartupResult]) -> StartupResult:
    """Return the median of each time."""
    return StartupResult(
        startup_s=median([result.startup_s for result in results]),
        load_s=median([result.load_s for result in results]),
        ttft_s=median([result.ttft_s for result in results]),
    )
