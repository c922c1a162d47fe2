"""S14: the example of 34 B weights and 50,000 tokens, and the figure that comes with it."""

from xml.etree import ElementTree

import pytest

from steelyard.core.units import GIB
from steelyard.reproduce import s14


@pytest.mark.parametrize("length", s14.PUBLISHED)
def test_the_papers_numbers_are_met(length):
    published, costs = s14.PUBLISHED[length], s14.costs_at(length)
    assert costs.kv_bytes / GIB == pytest.approx(published["kv_gib"], rel=0.05)
    assert costs.decode_s == pytest.approx(published["decode_s"], rel=0.05)
    assert s14.paper_prefill_s(length) == pytest.approx(published["prefill_s"], rel=0.01)
    assert costs.concurrency == pytest.approx(published["users"], rel=0.15)
    if published["switch_s"] is not None:
        assert costs.switch_s == pytest.approx(published["switch_s"], rel=0.12)


def test_every_published_number_has_its_row():
    told = [row.claim for row in s14.rows()]
    assert len(told) == 12
    assert told.count("–") == 1


def test_the_figure_has_four_panels():
    root = ElementTree.fromstring(s14.four_costs_figure())
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
