"""Caches found in latency curves made up here, and what Linux reports of them."""

import random
from itertools import pairwise

import pytest

from steelyard.core.units import KIB, MIB
from steelyard.hardware.probe.latency import Plateau, plateaus, stated_caches
from steelyard.hardware.probe.reading import sizes

LEVELS = ((48 * KIB, 1.2e-9), (MIB, 3.5e-9), (32 * MIB, 1.4e-8), (1 << 40, 1.1e-7))


def curve(levels=LEVELS, smooth=1.0, noise=0.0, seed=0):
    """The latency at each size; ``smooth`` lets each capacity be outgrown over so many octaves."""
    rng, points = random.Random(seed), []
    for size in sizes(4 * KIB, 512 * MIB, 2):
        latency = levels[0][1]
        for (capacity, near), (_, far) in pairwise(levels):
            misses = min(1.0, max(0.0, (size / capacity - 1) / smooth)) if size > capacity else 0.0
            latency += (far - near) * misses
        points.append((size, latency * (1 + noise * rng.random())))
    return points


@pytest.mark.parametrize("smooth", [0.01, 0.6, 1.5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_finds_three_caches_and_the_memory(smooth, noise):
    found = plateaus(curve(smooth=smooth, noise=noise, seed=4))
    assert [one.capacity_bytes for one in found[:3]] == [48 * KIB, MIB, 32 * MIB]
    assert len(found) == 4
    for plateau, (_, latency_s) in zip(found, LEVELS, strict=True):
        assert plateau.latency_s == pytest.approx(latency_s, rel=0.15)


def test_one_slow_point_is_no_level():
    points = curve()
    size, latency_s = points[3]
    points[3] = (size, 9 * latency_s)
    assert plateaus(points) == plateaus(curve())


def test_a_small_step_is_no_level_of_its_own():
    stepped = ((48 * KIB, 1.2e-9), (MIB, 3.5e-9), (8 * MIB, 1.4e-8), (32 * MIB, 2e-8), (1 << 40, 1.1e-7))
    assert [one.capacity_bytes for one in plateaus(curve(stepped, smooth=0.01))[:3]] == [48 * KIB, MIB, 32 * MIB]


def test_flat_and_empty_curves():
    assert plateaus([]) == ()
    assert plateaus([(4, 1.0), (8, 1.01)]) == (Plateau(8, 1.0),)


def test_reads_what_linux_reports(tmp_path):
    entries = (("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "2", "1024K"), ("Unified", "3", "32M"))
    for number, values in enumerate(entries):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("type", "level", "size"), values, strict=True):
            (folder / name).write_text(value + "\n")
    (tmp_path / "index9").mkdir()
    assert stated_caches(tmp_path) == {1: 48 * KIB, 2: MIB, 3: 32 * MIB}
    assert stated_caches(tmp_path / "nowhere") == {}
