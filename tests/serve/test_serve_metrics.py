"""What metrics make of an engine's steps."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from steelyard.engine.view import StepRecord
from steelyard.policies.schedule.types import Schedule
from steelyard.serve.metrics import TallyHistogram, TokenTimes


def record(end_s: float, sampled: tuple[int, ...], num_running: int = 2) -> StepRecord:
    return StepRecord(
        step=0, start_s=end_s, end_s=end_s, schedule=Schedule(), works=(), sampled=sampled,
        num_running=num_running, num_waiting=0, num_free_blocks=0,
    )  # fmt: skip


def test_gaps_between_tokens():
    times = TokenTimes()
    assert times.gaps_s(record(1.0, (1, 2))) == {}
    assert times.gaps_s(record(1.5, (1, 2))) == {0.5: 2}
    assert times.gaps_s(record(2.0, (1, 3))) == {0.5: 1}
    assert times.gaps_s(record(3.0, (2, 3))) == {1.5: 1, 1.0: 1}


def test_sequences_that_ended_are_forgotten():
    times = TokenTimes()
    for number in range(10_000):
        times.gaps_s(record(float(number), (number, number + 1)))
    assert len(times._latest_s) < 200
    assert times.gaps_s(record(10_000.0, (10_000,))) == {1.0: 1}


def test_a_tally_is_a_histogram():
    values = [0.05, 0.1, 0.1, 0.3, 7.0]
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("x", "X.", ("model_name",), buckets=(0.1, 0.5), registry=theirs).labels("m")
    tally = TallyHistogram(("x", "y"), "X.", (0.1, 0.5))
    ours.register(tally)
    for value in values:
        histogram.observe(value)
    for value in sorted(set(values)):
        tally.add("m", value, values.count(value))
    lines = generate_latest(ours).decode().splitlines()
    expected = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert [line for line in lines if "y" not in line] == expected
    assert sum(line.startswith("y_bucket") for line in lines) == 3


def test_nothing_observed_is_no_error():
    registry = CollectorRegistry()
    registry.register(TallyHistogram(("x",), "X.", (0.1,)))
    assert "x_bucket" not in generate_latest(registry).decode()


@pytest.mark.parametrize("value", [0.1, 0.100001])
def test_bounds_belong_to_their_bucket(value):
    registry = CollectorRegistry()
    tally = TallyHistogram(("x",), "X.", (0.1,))
    registry.register(tally)
    tally.add("m", value, 1)
    count = 1.0 if value <= 0.1 else 0.0
    assert f'x_bucket{{le="0.1",model_name="m"}} {count}' in generate_latest(registry).decode()
