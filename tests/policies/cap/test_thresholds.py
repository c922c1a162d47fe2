"""POLCA's stages: set at one power, lifted at a lower one, low priority first."""

from __future__ import annotations

import pytest

from steelyard.core.errors import ParamsError
from steelyard.policies.cap import make_cap_policy
from steelyard.policies.cap.thresholds import Stage, ThresholdCaps


def clocks_mhz(policy, *shares: float) -> list[tuple[int, int]]:
    return [(round(caps.low * 1410), round(caps.high * 1410)) for caps in map(policy, shares)]


def test_polca_caps_low_priority_first_and_lifts_late():
    found = clocks_mhz(make_cap_policy("polca"), 0.79, 0.80, 0.76, 0.89, 0.85, 0.83, 0.74)
    assert found == [
        (1410, 1410), (1275, 1410), (1275, 1410), (1110, 1305), (1110, 1305), (1275, 1410), (1410, 1410),
    ]  # fmt: skip


def test_one_threshold_does_nothing_until_it_is_passed():
    assert clocks_mhz(make_cap_policy("one_threshold_low"), 0.88, 0.89, 0.80) == [
        (1410, 1410),
        (1110, 1410),
        (1410,) * 2,
    ]
    assert clocks_mhz(make_cap_policy("one_threshold_all"), 0.89) == [(1110, 1110)]


def test_the_brake_holds_until_the_power_is_safely_lower():
    policy = make_cap_policy("polca")
    assert [policy(share).brake for share in (0.99, 1.0, 0.85, 0.79)] == [False, True, True, False]
    bare = make_cap_policy("none")
    assert [bare(share).brake for share in (0.99, 1.0, 0.99)] == [False, True, False]


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ({"above": 0.8, "below": 0.8, "low": 0.9}, "below"),
        ({"above": 0.8, "below": 0.7, "low": 0.0}, "low"),
        ({"above": 0.8, "below": 0.7, "low": 0.9, "high": 1.1}, "high"),
    ],
)
def test_impossible_stages_are_refused(stage, field):
    with pytest.raises(ParamsError, match=field):
        Stage(**stage)


def test_the_lowest_clock_counts_where_stages_overlap():
    policy = ThresholdCaps((Stage(above=0.5, below=0.4, low=0.6), Stage(above=0.5, below=0.4, low=0.7, high=0.9)))
    caps = policy(0.5)
    assert (caps.low, caps.high) == (0.6, 0.9)
