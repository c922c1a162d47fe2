"""S07: the authors' example exactly, the better GPU in most sizes, and mixes that never lose to one type."""

import pytest

from steelyard.reproduce import s07


def test_the_worked_example():
    plan = s07.worked_example()
    assert plan.counts == (3, 1)
    assert plan.price_per_hour == pytest.approx(6.70)


def test_the_better_type_in_most_sizes():
    pairs = list(s07.advantages())
    assert len(pairs) == 36
    assert sum((ours > 0) == (theirs > 0) for ours, theirs in pairs) >= 32


def test_a_mix_on_real_requests_saves():
    plan = s07.trace_plan("azure-conversation", 4.0)
    assert plan.saved is not None
    assert plan.saved > 0
    assert len([count for count in plan.counts if count]) >= 2
