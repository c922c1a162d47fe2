"""S39 NCPP: predicting benchmark scores of servers from groups of hardware characteristics, by group attention.

PerfCastDB is not published but for a sample: a training and a test file of one hundred-odd runs each, shipped with this
package. In it every benchmark ran on one machine per file, so the published split asks for machines and pairings that
nothing in training tells of. Two more ways of holding out say what can be learned where there is something to learn
from: pairs of machine and test (both known, each from elsewhere), and rows at random (whose repeats were trained with).

The plain network's predictions are kept within the targets that it was trained with. Without that it diverges on the
pairs with one of three seeds: a few predictions, off by orders of magnitude, then make its mean error 61,851 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from statistics import fmean

import numpy as np

from steelyard.cost.learned.forest import Floats, Ints
from steelyard.cost.learned.group_attention import GroupAttentionConfig, train_score_predictor
from steelyard.cost.learned.perfcast import (
    BenchmarkRun,
    BenchmarkRuns,
    fit_encoding,
    load_benchmark_runs,
    usual_scores,
)
from steelyard.cost.learned.scores import Scores, group_folds, row_folds, scores
from steelyard.cost.learned.training import LEARNERS, Learner, fit_network
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "group attention predicts CPU benchmark scores better than the methods compared with (on all of PerfCastDB)"
NUM_FOLDS = 4
Runs = tuple[BenchmarkRun, ...]
Split = tuple[Runs, Runs]
"""What to train with, and what is held out."""
Method = Callable[[Runs, Runs, int], Floats]
"""Runs to train with, runs held out and a seed → predicted scores."""


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S39 and return its table.

    Raises:
        InputError: if ``options.data_dir`` is given and does not hold PerfCastDB's files.
    """
    train, test = load_sample(options.data_dir)
    num_seeds = 1 if options.quick else 3
    ways = {
        "published split (machines)": [(train.runs, test.runs)],
        "pairs of machine and test": split_cells(train.runs + test.runs, options.seed),
        "rows": split_rows(train.runs + test.runs, options.seed),
    }
    rows = [data_row(train, test)]
    for way, splits in ways.items():
        found = {name: judge(method, splits, options.seed, num_seeds) for name, method in METHODS.items()}
        rows += list(table_rows(way, found))
    return stamped(
        system="S39",
        claim=CLAIM,
        setup=(
            f"the published sample, {len(train.runs)} and {len(test.runs)} runs of {len(_tests(train.runs))} tests; "
            f"every method predicts the score over what is usual for its test; mean of {num_seeds} seeds; "
            "ratio: mean error of the best other method over that of group attention"
        ),
        rows=tuple(rows),
        command=command_line("S39", options),
    )


def load_sample(data_dir: Path | None) -> tuple[BenchmarkRuns, BenchmarkRuns]:
    """Return training and test runs of a directory, or of the excerpt that is shipped."""
    if data_dir is not None:
        return load_benchmark_runs(data_dir / "train_data.csv"), load_benchmark_runs(data_dir / "test_data.csv")
    with resources.as_file(resources.files("steelyard.reproduce") / "data" / "ncpp") as shipped:
        return load_sample(shipped)


def data_row(train: BenchmarkRuns, test: BenchmarkRuns) -> ReproductionRow:
    """Return what was read and what was left out."""
    reasons = [f"{count} {reason}" for part in (train, test) for reason, count in part.dropped.items()]
    machines = len({run.machine for run in train.runs}), len({run.machine for run in test.runs})
    return ReproductionRow(
        claim="the whole of PerfCastDB",
        setup="rows of both files",
        ours=f"{len(train.runs) + len(test.runs)} runs on {machines[0]} + {machines[1]} machines; left out: "
        + ("; ".join(reasons) or "none"),
    )


def split_cells(runs: Runs, seed: int) -> list[Split]:
    """Return folds that hold out whole pairs of machine and test, of tests that another machine ran too."""
    numbers: dict[tuple[str, str], int] = {}
    groups = np.array([numbers.setdefault((run.machine, run.test), len(numbers)) for run in runs])
    return [_split(runs, fold.train, fold.held_out) for fold in group_folds(groups, NUM_FOLDS, seed)]


def split_rows(runs: Runs, seed: int) -> list[Split]:
    """Return folds that hold out rows, whatever they repeat."""
    return [_split(runs, fold.train, fold.held_out) for fold in row_folds(len(runs), NUM_FOLDS, seed)]


def _split(runs: Runs, train: Ints, held_out: Ints) -> Split:
    return tuple(runs[row] for row in train), tuple(runs[row] for row in held_out)


def judge(method: Method, splits: list[Split], seed: int, num_seeds: int) -> list[Scores]:
    """Return a method's errors over all held-out runs of tests that training had, once per seed."""
    found = []
    for number in range(seed, seed + num_seeds):
        measured, predicted = [], []
        for train, held_out in splits:
            known = tuple(run for run in held_out if run.test in _tests(train))
            measured += [run.score for run in known]
            predicted += list(method(train, known, number))
        found.append(scores(np.array(measured), np.array(predicted)))
    return found


def table_rows(way: str, found: dict[str, list[Scores]]) -> Iterator[ReproductionRow]:
    """Yield a row per method; group attention's carries the ratio to the best of the others."""
    means = {name: fmean(one.mean_error for one in several) for name, several in found.items()}
    best = min(error for name, error in means.items() if name != GROUP_ATTENTION)
    for name, several in found.items():
        errors = [one.mean_error for one in several]
        spread = "" if min(errors) == max(errors) else f" ({min(errors):.1%} … {max(errors):.1%})"
        yield ReproductionRow(
            claim="best of all" if name == GROUP_ATTENTION else "–",
            setup=f"{name}, {way} held out",
            ours=f"error mean {means[name]:.1%}{spread}, median {fmean(one.median_error for one in several):.1%}",
            ratio=best / means[name] if name == GROUP_ATTENTION else None,
        )


def _tests(runs: Runs) -> set[str]:
    return {run.test for run in runs}


def _group_attention(train: Runs, held_out: Runs, seed: int) -> Floats:
    return train_score_predictor(train, GroupAttentionConfig(seed=seed)).predict(held_out)


def _usual(train: Runs, held_out: Runs, seed: int) -> Floats:
    return np.exp(usual_scores(train).logs(held_out))


def _learned(learner: Learner) -> Method:
    """Return the method that lets a learner see the same characteristics as columns."""

    def method(train: Runs, held_out: Runs, seed: int) -> Floats:
        encoding, usual = fit_encoding(train), usual_scores(train)
        target = np.log([run.score for run in train]) - usual.logs(train)
        predict = learner(encoding.one_hot(train), target, seed)
        return np.exp(usual.logs(held_out) + predict(encoding.one_hot(held_out)))

    return method


def _fit_within(rows: Floats, target: Floats, seed: int) -> Callable[[Floats], Floats]:
    """Fit the plain network; it predicts nothing beyond the targets that it has seen."""
    predict = fit_network(rows, target, seed)
    return lambda asked: np.clip(predict(asked), target.min(), target.max())


GROUP_ATTENTION = "group attention"
METHODS: dict[str, Method] = {
    GROUP_ATTENTION: _group_attention,
    "usual for the test": _usual,
    **{name: _learned(learner) for name, learner in LEARNERS.items()},
    "plain network, kept within training": _learned(_fit_within),
}
