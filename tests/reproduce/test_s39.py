"""S39's ways of holding out, and its table."""

import pytest

pytest.importorskip("sklearn")

from steelyard.core.errors import InputError
from steelyard.cost.learned.scores import Scores
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.s39 import (
    GROUP_ATTENTION,
    METHODS,
    judge,
    load_sample,
    reproduce,
    split_cells,
    split_rows,
    table_rows,
)

TRAIN, TEST = load_sample(None)
RUNS = TRAIN.runs + TEST.runs


def test_pairs_of_machine_and_test_are_never_on_both_sides():
    splits = split_cells(RUNS, seed=0)
    assert sum(len(held_out) for _, held_out in splits) == len(RUNS)
    for train, held_out in splits:
        assert not {(run.machine, run.test) for run in train} & {(run.machine, run.test) for run in held_out}


def test_every_row_is_held_out_once():
    splits = split_rows(RUNS, seed=0)
    assert sorted(map(repr, (run for _, held_out in splits for run in held_out))) == sorted(map(repr, RUNS))


def test_machines_of_the_published_split_are_strangers():
    assert not {run.machine for run in TRAIN.runs} & {run.machine for run in TEST.runs}


def test_no_method_looks_at_scores_held_out():
    _, held_out = split_cells(RUNS, seed=0)[0]
    seen = []

    def spy(train, known, seed):
        seen.append((len(train), seed))
        return METHODS["usual for the test"](train, known, seed)

    found = judge(spy, [(TRAIN.runs, TEST.runs)], seed=7, num_seeds=2)
    assert seen == [(120, 7), (120, 8)]
    assert found[0] == found[1]
    assert 0.15 < found[0].mean_error < 0.25
    assert held_out


def test_the_ratio_is_to_the_best_of_the_others():
    def errors(*values):
        return [Scores(r2=0.0, mean_error=value, median_error=value) for value in values]

    found = {GROUP_ATTENTION: errors(0.1, 0.3), "poor": errors(0.9), "good": errors(0.3)}
    rows = list(table_rows("rows", found))
    assert [row.ratio for row in rows] == [pytest.approx(1.5), None, None]
    assert rows[0].ours == "error mean 20.0% (10.0% … 30.0%), median 20.0%"


def test_a_directory_without_the_sample_is_refused(tmp_path):
    with pytest.raises(InputError, match="PerfCastDB"):
        reproduce(ReproduceOptions(model="none", data_dir=tmp_path))
