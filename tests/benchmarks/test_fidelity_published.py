"""The published serving runs: mean TTFT and TPOT are met within ten per cent."""

from statistics import fmean

import pytest
from fidelity_published import RUNS, measured, simulated, table


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.device)
def test_means_are_within_ten_per_cent(run):
    truth, guess = measured(run), simulated(run)
    assert len(guess.ttft_s) == len(truth.ttft_s) == 300
    assert fmean(guess.ttft_s) == pytest.approx(fmean(truth.ttft_s), rel=0.10)
    assert fmean(guess.tpot_s) == pytest.approx(fmean(truth.tpot_s), rel=0.10)


def test_the_table_tells_every_deviation():
    truth = measured(RUNS[0])
    lines = list(table(truth, truth))
    assert len(lines) == 9
    assert all(line.endswith("+0.0%") for line in lines[1:])
