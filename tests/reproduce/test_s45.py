"""S45: the formula of the optimum, and a pipeline that gains without reaching it."""

import pytest

from steelyard.plan.nano import search
from steelyard.reproduce import s45


def test_the_rate_of_products_gives_the_optimum_that_it_was_inferred_from():
    job = s45.job()
    assert job.tokens_per_s(job.optimal_s) == pytest.approx(s45.OPTIMUM, rel=0.03)


def test_overlap_gains_and_stays_below_the_optimum():
    job = s45.job()
    plan = search(job)
    assert job.optimal_s < plan.step_s < plan.sequential_s
