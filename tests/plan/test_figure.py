"""Charts as SVG: well-formed, one line per panel, points at their decades, empty panels without a line."""

from xml.etree import ElementTree

from steelyard.plan.figure import Panel, line_panels

_SVG = "{http://www.w3.org/2000/svg}"


def test_a_panel_spans_its_decades():
    text = line_panels([Panel("a < b", ((10.0, 1.0), (1000.0, 100.0)))], title="both & all", x_label="tokens")
    root = ElementTree.fromstring(text)
    (line,) = root.iter(f"{_SVG}polyline")
    (left, low), (right, high) = (map(float, pair.split(",")) for pair in line.attrib["points"].split())
    assert left < right
    assert low > high
    told = [one.text for one in root.iter(f"{_SVG}text")]
    assert told[:2] == ["both & all", "a < b"]
    assert {"10", "100", "1000", "1", "tokens"} <= set(told)


def test_points_of_no_positive_value_are_left_out():
    panels = [Panel("some", ((1.0, 0.0), (10.0, 5.0), (100.0, 50.0))), Panel("none", ((1.0, 0.0),))]
    root = ElementTree.fromstring(line_panels(panels, title="t", x_label="x"))
    (line,) = root.iter(f"{_SVG}polyline")
    assert len(line.attrib["points"].split()) == 2
