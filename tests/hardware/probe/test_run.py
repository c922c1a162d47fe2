"""All measurements together: what belongs to a full run, and that one failure does not end it."""

from dataclasses import replace

import pytest
import torch

from steelyard.core.errors import StorageError
from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe import bandwidth, latency, peaks, run, threads
from steelyard.hardware.probe.reading import Reading, Scale, Unit
from steelyard.hardware.probe.run import Subject, measure_all, scale, subjects
from steelyard.kernels.native import native_available

TINY = Scale(budget_s=0.0, max_bytes=64 * KIB, disk_bytes=MIB, num_threads=2, points_per_octave=1)
READING = Reading(subject="s", name="n", value=1.0, unit=Unit.SECONDS)


def test_one_failure_is_a_note_and_what_came_before_is_kept():
    def working(effort):
        yield READING

    def failing(effort):
        raise StorageError("full", field="disk", remedy="Make room")
        yield

    def broken(effort):
        raise ConnectionError("the other end left")
        yield

    told = []
    chosen = (Subject("a", working), Subject("b", failing), Subject("c", broken), Subject("d", working))
    found = measure_all(chosen, TINY, lambda subject: told.append(subject.title))
    assert found.readings == (READING, READING)
    assert told == ["a", "b", "c", "d"]
    assert [note for note in found.notes if note[:2] in ("b:", "c:")] == [
        "b: disk: full. Make room.",
        "c: the other end left",
    ]


@pytest.mark.parametrize(
    ("spreads", "kept", "busy"), [((0.1,), 0.1, False), ((0.9, 0.2), 0.2, False), ((0.9, 0.5, 0.7), 0.5, True)]
)
def test_a_noisy_steady_subject_is_measured_again_and_the_quietest_is_kept(spreads, kept, busy):
    left = list(spreads)

    def noisy(effort):
        yield replace(READING, spread=left.pop(0), num_threads=2)
        yield replace(READING, spread=5.0, num_threads=1)

    found = measure_all((Subject("rates", noisy, steady=True),), TINY)
    assert not left
    assert (found.readings[0].spread, found.busy) == (kept, busy)
    assert any("50% slower" in note for note in found.notes) == busy


def test_what_is_not_steady_may_be_noisy():
    found = measure_all((Subject("a", lambda effort: iter([replace(READING, spread=9.0, num_threads=2)])),), TINY)
    assert (len(found.readings), found.busy) == (1, False)


def test_our_own_bugs_are_not_swallowed():
    def wrong(effort):
        raise KeyError("oops")
        yield

    with pytest.raises(KeyError):
        measure_all((Subject("a", wrong),), TINY)


def test_without_the_extension_the_rest_is_measured_and_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "native_available", lambda: False)
    titles = [subject.title for subject in subjects(tmp_path)]
    assert titles[:3] == ["matrix products", "links between processes", "disk"]
    assert "compiled extension" in measure_all((), TINY).notes[0]


def test_effort_keeps_within_free_memory(monkeypatch):
    monkeypatch.setattr(run, "available_memory_bytes", lambda: 100 * MIB)
    assert scale(quick=False, num_threads=3).max_bytes == 8 * MIB
    assert scale(quick=False, num_threads=3).num_threads == 3
    assert scale(quick=True).budget_s < scale(quick=False).budget_s
    monkeypatch.setattr(run, "available_memory_bytes", lambda: 0)
    assert scale(quick=True).max_bytes == 64 * KIB


def test_matrix_products_leave_pytorchs_threads_alone():
    before = torch.get_num_threads()
    readings = tuple(peaks.measure_matmul(TINY))
    assert torch.get_num_threads() == before
    assert {reading.num_threads for reading in readings} == {1, 2}
    assert {reading.name for reading in readings} == {"float32 torch.mm", "bfloat16 torch.mm"}


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
class TestNative:
    def test_latency_at_every_size(self):
        readings = tuple(latency.measure(TINY))
        assert [reading.size_bytes for reading in readings] == [4 * KIB << power for power in range(5)]

    def test_bandwidth_by_threads_and_by_size(self):
        readings = tuple(bandwidth.measure(TINY))
        whole = [(r.name, r.num_threads) for r in readings if r.name != "read by size"]
        assert whole == [(name, count) for count in (1, 2) for name in ("read", "copy", "triad")]
        assert [r.size_bytes for r in readings if r.name == "read by size"] == [16 * KIB, 32 * KIB, 64 * KIB]

    def test_peaks_of_each_instruction_set(self):
        readings = tuple(peaks.measure(TINY))
        assert {"float32 baseline"} <= {reading.name for reading in readings}
        assert {reading.num_threads for reading in readings} == {1, 2}
        assert all(reading.value > 0 and reading.unit is Unit.FLOP_PER_S for reading in readings)

    def test_three_latencies_of_threads(self):
        readings = tuple(threads.measure(TINY))
        names = (threads.HOT, threads.ASLEEP, threads.BARRIER)
        assert [(r.name, r.num_threads) for r in readings] == [(name, count) for count in (1, 2) for name in names]
