"""Best of many rounds, thread counts and sizes; nothing here is timed."""

import pytest

from steelyard.hardware.probe import reading as module
from steelyard.hardware.probe.reading import Reading, Scale, Timing, Unit, best_of, find, largest, repeats_for, sizes


class Clock:
    """A clock that ticks a given time with every look."""

    def __init__(self, *steps):
        self.steps, self.now = list(steps), 0.0

    def __call__(self):
        self.now += self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return self.now


@pytest.fixture
def durations(monkeypatch):
    """Let each round take the next of these seconds."""

    def use(*seconds):
        left = list(seconds)

        class Watch:
            def __enter__(self):
                return self

            def __exit__(self, *exception):
                self.elapsed_s = left.pop(0) if len(left) > 1 else left[0]

        monkeypatch.setattr(module, "Stopwatch", Watch)

    return use


def test_the_best_round_and_how_far_the_median_is(durations):
    durations(5.0, 2.0, 3.0, 9.0, 4.0)
    timing = best_of(lambda: None, 0.0)
    assert timing == Timing(2.0, 4.0)
    assert timing.spread == 1.0


def test_the_budget_adds_rounds_but_not_for_ever(durations, monkeypatch):
    calls = []
    durations(1.0)
    monkeypatch.setattr(module, "wall_s", Clock(1.0))
    best_of(lambda: calls.append(1), 20.0)
    assert 10 < len(calls) < 30
    calls.clear()
    monkeypatch.setattr(module, "wall_s", lambda: 0.0)
    best_of(lambda: calls.append(1), 1.0)
    assert len(calls) == module._MAX_ROUNDS + 1


def test_rates_stay_finite(durations):
    durations(0.0)
    assert best_of(lambda: None, 0.0).best_s > 0


def test_repeats_grow_until_they_take_long_enough(durations):
    durations(*[1e-6] * 3, *[1e-4] * 3, *[3e-4] * 2, 9.0, 2e-3)  # one slow try does not count
    asked = []
    assert repeats_for(asked.append, 1e-3) == asked[-1]
    assert asked == [1] * 3 + [8] * 3 + [64] * 3 + [128] * 3


def test_thread_counts_end_with_all():
    def counts(num_threads):
        return Scale(budget_s=1, max_bytes=1, disk_bytes=1, num_threads=num_threads).thread_counts

    assert [counts(number) for number in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_sizes_rise_evenly():
    assert list(sizes(4, 16, 1)) == [4, 8, 16]
    assert list(sizes(4, 20, 2)) == [4, 6, 8, 12, 16]
    assert list(sizes(8, 4, 2)) == []


def test_finding_readings():
    def one(value, **more):
        return Reading(subject="s", name="n", value=value, unit=Unit.SECONDS, **more)

    readings = (one(1.0, num_threads=1), one(3.0, num_threads=2), one(2.0, num_threads=2, size_bytes=5))
    assert find(readings, "s", "n", num_threads=2) == list(readings[1:])
    assert find(readings, "s", "n", num_threads=2, size_bytes=5) == [readings[2]]
    assert find(readings, "s", "m") == find(readings, "t", "n") == []
    assert largest(list(readings)) == 3.0
    assert largest([]) is None
