"""Small line charts side by side as plain SVG: logarithmic axes, colours of the reader's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 210, 150, 46, 46, 34, 24
_STYLE = (
    "svg{font:12px system-ui,sans-serif;--ink:#1d2430;--soft:#6b7482;--grid:#e3e6ea;--line:#1f5fbf;--back:#fff}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6e9ee;--soft:#98a2b1;--grid:#2c333d;--line:#7fb0ff;--back:#14181e}}"
    "text{fill:var(--ink)}.soft{fill:var(--soft);font-size:10px}.grid{stroke:var(--grid)}"
    ".line{fill:none;stroke:var(--line);stroke-width:2}.back{fill:var(--back)}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a title and positive points, rising in x; points of no positive value are left out."""

    title: str
    points: tuple[tuple[float, float], ...]


def line_panels(panels: Sequence[Panel], *, title: str, x_label: str) -> str:
    """Return the charts as one SVG document, side by side, each with its own axes in powers of ten."""
    width = _GAP + len(panels) * (_LEFT + _WIDTH + _GAP)
    height = _TOP + _HEIGHT + _BOTTOM
    body = [line for number, panel in enumerate(panels) for line in _panel(panel, number, x_label)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f'<rect class="back" width="{width}" height="{height}"/>',
            f'<text x="{_GAP}" y="16">{escape(title)}</text>',
            *body,
            "</svg>",
        ]
    )


def _panel(panel: Panel, number: int, x_label: str) -> Iterator[str]:
    left, shown = _GAP + number * (_LEFT + _WIDTH + _GAP) + _LEFT, [point for point in panel.points if point[1] > 0]
    yield f'<text x="{left}" y="{_TOP - 8}">{escape(panel.title)}</text>'
    if not shown:
        return
    xs, ys = (_decades([point[axis] for point in shown]) for axis in (0, 1))
    for power in range(xs[0], xs[1] + 1):
        x = left + _WIDTH * (power - xs[0]) / (xs[1] - xs[0])
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}"/>'
        yield f'<text class="soft" text-anchor="middle" x="{x:.1f}" y="{_TOP + _HEIGHT + 14}">{_power(power)}</text>'
    for power in range(ys[0], ys[1] + 1):
        y = _TOP + _HEIGHT * (1 - (power - ys[0]) / (ys[1] - ys[0]))
        yield f'<line class="grid" x1="{left}" x2="{left + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="soft" text-anchor="end" x="{left - 5}" y="{y + 3:.1f}">{_power(power)}</text>'
    places = " ".join(
        f"{left + _WIDTH * _share(x, xs):.1f},{_TOP + _HEIGHT * (1 - _share(y, ys)):.1f}" for x, y in shown
    )
    yield f'<polyline class="line" points="{places}"/>'
    yield (
        f'<text class="soft" text-anchor="middle" x="{left + _WIDTH / 2}" y="{_TOP + _HEIGHT + 28}">'
        f"{escape(x_label)}</text>"
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around the values, at least one decade."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _share(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _power(power: int) -> str:
    return f"{10.0**power:g}"
