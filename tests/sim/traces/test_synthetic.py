"""Drawn traces: the same seed gives the same trace, and rates and spreads are what was asked for."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, stdev

import pytest

from steelyard.core.errors import ParamsError
from steelyard.sim.traces import load_trace


def gaps(text: str, seed: int = 1) -> list[float]:
    times = [one.arrival_s for one in load_trace(text, seed).requests]
    return [after - before for before, after in pairwise(times)]


def variation(text: str) -> float:
    found = gaps(text)
    return stdev(found) / fmean(found)


@pytest.mark.parametrize("process", ["poisson", "gamma,cv=3", "diurnal,period=500", "bursts,burst=5,every=20"])
def test_the_mean_rate_is_the_one_asked_for(process):
    assert 1 / fmean(gaps(f"synthetic:{process},rate=8,duration=4000")) == pytest.approx(8, rel=0.05)


def test_gaps_vary_as_asked():
    assert variation("synthetic:poisson,rate=5,count=20000") == pytest.approx(1.0, rel=0.05)
    assert variation("synthetic:gamma,rate=5,count=20000,cv=2.5") == pytest.approx(2.5, rel=0.05)
    assert variation("synthetic:gamma,rate=5,count=20000,cv=0.3") == pytest.approx(0.3, rel=0.05)
    assert variation("synthetic:bursts,rate=5,count=20000,factor=10") > 1.5


def test_the_day_has_a_night():
    times = [one.arrival_s for one in load_trace("synthetic:diurnal,rate=5,duration=1000,period=1000", 1).requests]
    night, noon = sum(time < 200 for time in times), sum(400 <= time < 600 for time in times)
    assert noon > 3 * night


def test_lengths_are_as_asked_and_arrivals_do_not_depend_on_them():
    text = "synthetic:poisson,rate=5,count=20000,prompt=lognormal:700:0.8,output=uniform:5:15"
    trace, other = load_trace(text, 3), load_trace("synthetic:poisson,rate=5,count=20000", 3)
    assert fmean(one.num_prompt_tokens for one in trace.requests) == pytest.approx(700, rel=0.03)
    assert {one.num_output_tokens for one in trace.requests} == set(range(5, 16))
    assert [one.arrival_s for one in trace.requests] == [one.arrival_s for one in other.requests]
    assert {one[1:3] for one in other.requests} == {(512, 128)}


def test_the_published_means():
    requests = load_trace("synthetic:poisson,rate=5,count=20000,lengths=sharegpt", 1).requests
    assert fmean(one.num_prompt_tokens for one in requests) == pytest.approx(755.5, rel=0.05)
    assert fmean(one.num_output_tokens for one in requests) == pytest.approx(200.3, rel=0.05)


def test_pairs_of_a_file(tmp_path):
    (tmp_path / "pairs.json").write_text('[{"prompt_len": 3, "output_len": 4}, {"prompt_len": 5, "output_len": 6}]')
    requests = load_trace(f"synthetic:poisson,rate=5,count=50,lengths=trace:{tmp_path / 'pairs.json'}", 1).requests
    assert {one[1:3] for one in requests} == {(3, 4), (5, 6)}


def test_the_same_seed_draws_the_same_and_another_another():
    text = "synthetic:bursts,rate=4,duration=100,lengths=longbench"
    assert load_trace(text, 5) == load_trace(text, 5) != load_trace(text, 6)


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("synthetic:weibull", "synthetic", "no process"),
        ("synthetic:poisson,rate", "synthetic", "cannot be understood"),
        ("synthetic:poisson,speed=3", "synthetic", "cannot be understood"),
        ("synthetic:poisson,rate=fast", "rate", "no number"),
        ("synthetic:poisson,rate=-1", "rate", "not a finite number above 0"),
        ("synthetic:poisson,cv=2", "cv", "no such option"),
        ("synthetic:poisson,prompt=normal:5", "prompt", "no distribution"),
        ("synthetic:poisson,prompt=fixed:0", "prompt", "no distribution"),
        ("synthetic:poisson,lengths=tales", "lengths", "no lengths"),
        ("synthetic:poisson,lengths=sharegpt,prompt=fixed:3", "lengths", "beside prompt"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text, field, problem):
    with pytest.raises(ParamsError, match=problem) as caught:
        load_trace(text, 0)
    assert caught.value.field == field
