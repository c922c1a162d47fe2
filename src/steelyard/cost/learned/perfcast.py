"""Benchmark runs of servers as the public sample of PerfCastDB has them (S39): one score and what it was measured on.

The characteristics of a machine come in groups, as the data set describes them, because the network that learns from
them attends within a group first. Caches are given per core and socket by most machines, and as totals in MiB by some;
they are brought to one form. Runs that occur twice (a pod copied under another name) are kept once, since a copy among
the rows held out would flatter whoever memorises.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import InputError

Row = Mapping[str, str]
_KIB_PER_MIB = 1024
_LEAST_L1_KIB = 16


@dataclass(frozen=True, slots=True)
class Characteristic:
    """One thing known of a machine or of what ran on it.

    Attributes:
        group: it belongs to.
        name: within the group.
        read: from a row of the file: a number, or a word from which to learn.
    """

    group: str
    name: str
    read: Callable[[Row], float | str]


def _number(column: str) -> Callable[[Row], float]:
    return lambda row: float(row[column])


def _word(column: str) -> Callable[[Row], str]:
    return lambda row: row[column]


def _accelerators(kind: str) -> Callable[[Row], float]:
    def read(row: Row) -> float:
        match = re.search(rf"{kind}:(\d+)", row["SVR.Accelerators"])
        return float(match[1]) if match else 0.0

    return read


def _cache_kib(column: str, *, shared_by_socket: bool = False) -> Callable[[Row], float]:
    """Return what reads KiB per core, or per socket; a first-level cache below 16 KiB gives the totals' MiB away."""

    def read(row: Row) -> float:
        size = float(row[column])
        if float(row["SVR.CPU.L1d Cache"]) >= _LEAST_L1_KIB:
            return size
        sockets = float(row["SVR.CPU.Socket(s)"])
        owners = sockets if shared_by_socket else sockets * float(row["SVR.CPU.Core(s) per Socket"])
        return size * _KIB_PER_MIB / owners

    return read


CHARACTERISTICS = (
    Characteristic("cpu", "cores_per_socket", _number("SVR.CPU.Core(s) per Socket")),
    Characteristic("cpu", "sockets", _number("SVR.CPU.Socket(s)")),
    Characteristic("cpu", "threads_per_core", _number("SVR.CPU.Thread(s) per Core")),
    Characteristic("cpu", "base_ghz", _number("SVR.CPU.Base Frequency")),
    Characteristic("cpu", "max_ghz", _number("SVR.CPU.Maximum Frequency")),
    Characteristic("cpu", "all_core_ghz", _number("SVR.CPU.All-core Maximum Frequency")),
    Characteristic("cpu", "stepping", _word("META.metadata.cscope.stepping")),
    Characteristic("cache", "l1d_kib", _cache_kib("SVR.CPU.L1d Cache")),
    Characteristic("cache", "l1i_kib", _cache_kib("SVR.CPU.L1i Cache")),
    Characteristic("cache", "l2_kib", _cache_kib("SVR.CPU.L2 Cache")),
    Characteristic("cache", "l3_kib", _cache_kib("SVR.CPU.L3 Cache", shared_by_socket=True)),
    Characteristic("memory", "num_dimms", _number("Measure.DIMM.Num")),
    Characteristic("memory", "total_gb", _number("Measure.DIMM.Total")),
    Characteristic("memory", "mega_transfers_per_s", _number("Measure.DIMM.Freq")),
    Characteristic("memory", "population", _word("Measure.DIMM.Population")),
    Characteristic("memory", "numa_nodes", _number("SVR.CPU.NUMA Node(s)")),
    Characteristic("system", "tdp_w", _number("SVR.Power.TDP")),
    Characteristic("system", "clock_mhz", _number("SVR.Power.Frequency (MHz)")),
    Characteristic("system", "numa_balancing", _word("SVR.Memory.Automatic NUMA Balancing")),
    Characteristic("system", "os", _word("SVR.System.OS")),
    Characteristic("system", "qat", _accelerators("QAT")),
    Characteristic("system", "dsa", _accelerators("DSA")),
    Characteristic("system", "iax", _accelerators("IAX")),
    Characteristic("workload", "workload", _word("RESULT.WorkloadName")),
    Characteristic("workload", "preset", _word("RESULT.WorkloadPreset")),
    Characteristic("workload", "test", _word("RESULT.TestName")),
)
GROUPS = tuple(dict.fromkeys(characteristic.group for characteristic in CHARACTERISTICS))


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One run.

    Attributes:
        machine: that it ran on.
        test: of a benchmark suite; scores of different tests have different units.
        values: one per :data:`CHARACTERISTICS`.
        score: above 0; whether more is better depends on the test.
    """

    machine: str
    test: str
    values: tuple[float | str, ...]
    score: float


@dataclass(frozen=True, slots=True)
class BenchmarkRuns:
    """All runs of a file, and how many rows were left out, by reason."""

    runs: tuple[BenchmarkRun, ...]
    dropped: dict[str, int]


def load_benchmark_runs(path: Path) -> BenchmarkRuns:
    """Return the runs of a CSV file of PerfCastDB.

    Raises:
        InputError: if the file is missing, lacks a column, or holds no run.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = parse_benchmark_runs(list(csv.DictReader(file)))
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Give --data the directory that holds train_data.csv and test_data.csv of PerfCastDB"
        raise InputError("cannot be read", field=str(path), remedy=remedy) from error
    except KeyError as error:
        raise InputError(f"lacks the column {error}", field=str(path), remedy="Give the file as published") from error
    if not found.runs:
        raise InputError("holds no run", field=str(path), remedy="Give the file as published")
    return found


def parse_benchmark_runs(rows: list[dict[str, str]]) -> BenchmarkRuns:
    """Return the runs of rows by column.

    Raises:
        KeyError: if a column is missing.
    """
    dropped: Counter[str] = Counter()
    runs: dict[tuple[tuple[float | str, ...], str], BenchmarkRun] = {}
    for row in rows:
        try:
            values = tuple(characteristic.read(row) for characteristic in CHARACTERISTICS)
            score = float(row["RESULT.Value"])
        except (ValueError, TypeError):
            dropped["a number that is none"] += 1
            continue
        if not (math.isfinite(score) and score > 0):
            dropped["a score not above 0"] += 1
        elif (values, row["RESULT.Value"]) in runs:
            dropped["the same run again"] += 1
        else:
            run = BenchmarkRun(row["kubernetes.pod_id"], row["RESULT.TestName"], values, score)
            runs[values, row["RESULT.Value"]] = run
    return BenchmarkRuns(tuple(runs.values()), dict(dropped))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Encoding:
    """How characteristics become numbers, learned from training runs alone.

    Attributes:
        means: of numeric characteristics; 0 for words.
        scales: their standard deviations; 1 where that is 0, and for words.
        words: per characteristic, the words seen; none for numeric ones. Word 0 is any that was not seen.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    words: tuple[tuple[str, ...], ...]

    def encode(self, runs: tuple[BenchmarkRun, ...]) -> NDArray[np.float64]:
        """Return ``[runs, characteristics]``: numbers standardised, words by their place from 1 on."""
        return np.array([[self._code(column, value) for column, value in enumerate(run.values)] for run in runs])

    def one_hot(self, runs: tuple[BenchmarkRun, ...]) -> NDArray[np.float64]:
        """Return ``[runs, columns]``: numbers standardised, and a column of 0 and 1 for every word seen."""
        codes = self.encode(runs)
        columns = []
        for column, words in enumerate(self.words):
            places = range(1, len(words) + 1)
            columns += [codes[:, column] == place for place in places] if words else [codes[:, column]]
        return np.stack(columns, axis=1).astype(np.float64)

    def _code(self, column: int, value: float | str) -> float:
        if isinstance(value, str):
            return self.words[column].index(value) + 1.0 if value in self.words[column] else 0.0
        return (value - self.means[column]) / self.scales[column]


def fit_encoding(runs: tuple[BenchmarkRun, ...]) -> Encoding:
    """Return the encoding of training runs, of which there is at least one."""
    means, scales, words = [], [], []
    for column in zip(*(run.values for run in runs), strict=True):
        numbers = np.array([value for value in column if not isinstance(value, str)])
        means.append(float(numbers.mean()) if numbers.size else 0.0)
        scales.append((float(numbers.std()) if numbers.size else 0.0) or 1.0)
        words.append(tuple(sorted({value for value in column if isinstance(value, str)})))
    return Encoding(means=tuple(means), scales=tuple(scales), words=tuple(words))


@dataclass(frozen=True, slots=True)
class UsualScores:
    """What is usual for each test among training runs: the mean of the logarithms of its scores."""

    by_test: Mapping[str, float]

    def logs(self, runs: tuple[BenchmarkRun, ...]) -> NDArray[np.float64]:
        """Return the usual log score of each run's test, ``[runs]``.

        Raises:
            InputError: if a test is one that no training run had.
        """
        for run in runs:
            if run.test not in self.by_test:
                raise InputError("no training run has this test", field=run.test, remedy="Ask for a test that was seen")
        return np.array([self.by_test[run.test] for run in runs])


def usual_scores(runs: tuple[BenchmarkRun, ...]) -> UsualScores:
    """Return what is usual among ``runs``; each machine counts alike, however often it ran a test."""
    logs: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        logs.setdefault(run.test, {}).setdefault(run.machine, []).append(math.log(run.score))
    return UsualScores({test: fmean(map(fmean, machines.values())) for test, machines in logs.items()})
