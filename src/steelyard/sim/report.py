"""A result as one HTML page that needs nothing else: figures, distributions, and every machine over time.

Everything is inline SVG; no script, no font, no address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from steelyard.core.units import format_seconds
from steelyard.sim.result import Event, RequestRecord, Sample, SimulationResult, Spread, Summary

_WIDTH, _HEIGHT = 560, 220
_LEFT, _BOTTOM, _TOP = 56, 28, 10
_NUM_POINTS = 160
_ROW_HEIGHT = 9
_COLOURS = ("#2f6f9f", "#c4572e", "#4f8a3d", "#7a5aa6", "#a67c1f", "#3d8a86")
_SHADES = 8
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #1c1c1c;
 background: #fff }
h1, h2, h3 { font-weight: 600; line-height: 1.2 } table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } figure { display: inline-block; margin: .5rem 1rem .5rem 0 }
figcaption { font-weight: 600 } svg { overflow: visible } svg text { font: 11px system-ui, sans-serif; fill: #555 }
""".strip()

Points = list[tuple[float, float]]


def html_report(title: str, results: Mapping[str, SimulationResult]) -> str:
    """Return the page for results by name."""
    summaries = {name: result.summary() for name, result in results.items()}
    sections = [_over_time(name, result) for name, result in results.items()]
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
            _figures_table(summaries),
            "<h2>Distributions</h2>",
            _distributions(results),
            *sections,
            "</body></html>",
        ]
    )


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return names and values of the figures that are not spreads."""
    rows = [
        ("requests answered", f"{summary.num_done:,} of {summary.num_requests:,}"),
        *((f"  {name}", f"{count:,}") for name, count in summary.outcomes.items()),
        ("throughput", f"{summary.requests_per_s:.3f} requests/s, {summary.output_tokens_per_s:,.0f} tokens/s"),
    ]
    if summary.goodput_per_s is not None and summary.slo_share is not None:
        rows.append(("goodput within the objective", f"{summary.goodput_per_s:.3f}/s, {summary.slo_share:.2%}"))
    rows += [
        ("utilisation", f"{summary.utilisation:.1%}"),
        ("preemptions", f"{summary.num_preemptions:,}"),
        ("prefix cache hits", f"{summary.hit_share:.1%} of prompt tokens"),
    ]
    if summary.events:
        rows.append(("events", ", ".join(f"{count} {kind}" for kind, count in summary.events.items())))
        told = f"{summary.num_continuations} continued, {summary.num_retries} sent again"
        rows += [("requests that changed machines", told), ("replica-hours", f"{summary.replica_hours:,.2f}")]
    if summary.power is not None:
        power = summary.power
        share = f"{power.mean_share:.1%} on average, {power.peak_share:.1%} at most of {power.watts / 1e3:,.1f} kW"
        capped = f"{power.low_capped_s:,.0f} s low priority, {power.high_capped_s:,.0f} s high"
        rows += [("power budget", share), ("below full clock", f"{capped}; {power.num_brakes} brakes")]
    rows += [("energy", f"{summary.kwh:,.2f} kWh")] if summary.kwh else []
    rows += [("cost", f"{summary.dollars:,.2f} $")] if summary.dollars is not None else []
    return rows


def spread_rows(summary: Summary) -> list[tuple[str, Spread]]:
    """Return names and values of the figures that are spreads."""
    return [
        ("TTFT", summary.ttft_s),
        ("TPOT", summary.tpot_s),
        ("E2E", summary.e2e_s),
        ("TTFT alone", summary.alone_ttft_s),
        ("TPOT alone", summary.alone_tpot_s),
    ]


def shown_seconds(seconds: float | None) -> str:
    """Return a time for people, a dash if it is not known."""
    return "–" if seconds is None else format_seconds(seconds)


def _figures_table(summaries: Mapping[str, Summary]) -> str:
    lines = []
    for name, summary in summaries.items():
        lines.append(f"<h2>{escape(name)}</h2><table><tr><th></th><th>mean</th><th>P50</th><th>P90</th><th>P99</th>")
        lines.append("<th>max</th></tr>")
        for label, found in spread_rows(summary):
            cells = (found.mean, found.p50, found.p90, found.p99, found.max)
            lines.append(
                f"<tr><td>{label}</td>" + "".join(f"<td>{shown_seconds(cell)}</td>" for cell in cells) + "</tr>"
            )
        lines.append("</table><table>")
        lines += [f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in summary_rows(summary)]
        lines.append("</table>")
    return "\n".join(lines)


def _distributions(results: Mapping[str, SimulationResult]) -> str:
    kinds: tuple[tuple[str, Callable[[RequestRecord], float | None]], ...] = (
        ("time to first token", lambda one: one.ttft_s),
        ("time per token after the first", lambda one: one.tpot_s),
        ("time to last token", lambda one: one.e2e_s),
    )
    return "\n".join(
        _plot(f"{label}, s: share of requests", {name: _cdf(map(of, r.requests)) for name, r in results.items()})
        for label, of in kinds
    )


def _cdf(times: object) -> Points:
    known = np.sort(np.array([time for time in times if time is not None], dtype=np.float64))  # type: ignore[attr-defined]
    if not len(known):
        return []
    shares = np.linspace(0.0, 1.0, _NUM_POINTS)
    return list(zip(np.quantile(known, shares).tolist(), shares.tolist(), strict=True))


def _over_time(name: str, result: SimulationResult) -> str:
    by_time: dict[float, list[Sample]] = defaultdict(list)
    for sample in result.samples:
        by_time[sample.at_s].append(sample)

    def curve(of: Callable[[Sequence[Sample]], float]) -> Points:
        return [(at_s, of(samples)) for at_s, samples in by_time.items()]

    plots = [
        _plot(
            "sequences over time",
            {
                "running": curve(lambda some: sum(one.num_running for one in some)),
                "waiting": curve(lambda some: sum(one.num_waiting for one in some)),
            },
        ),
        _plot(
            "share of KV blocks in use",
            {
                "mean": curve(lambda some: sum(one.kv_share for one in some) / len(some)),
                "fullest machine": curve(lambda some: max(one.kv_share for one in some)),
            },
        ),
        _plot("power, W", {"all machines": curve(lambda some: sum(one.watts for one in some))}),
    ]
    return "\n".join([f"<h2>{escape(name)}, over time</h2>", *plots, _timeline(result)])


def _plot(label: str, curves: Mapping[str, Points]) -> str:
    """Return a figure of curves; x and y begin at 0."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    x_max, y_max = (max(point[axis] for point in points) or 1.0 for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        return f"{_LEFT + point[0] / x_max * _WIDTH:.1f},{_TOP + _HEIGHT * (1.0 - point[1] / y_max):.1f}"

    lines = [_axes(x_max, y_max)]
    for index, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(map(place, curve))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        lines.append(f'<text x="{_LEFT + _WIDTH - 4}" y="{_TOP + 14 + 14 * index}" text-anchor="end" ')
        lines.append(f'style="fill:{colour}">{escape(name)}</text>')
    size = f'width="{_LEFT + _WIDTH + 8}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    return f"<figure><figcaption>{escape(label)}</figcaption><svg {size}>{''.join(lines)}</svg></figure>"


def _axes(x_max: float, y_max: float) -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _LEFT + share * _WIDTH, _TOP + (1.0 - share) * _HEIGHT
        lines.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}" stroke="#e5e5e5"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{share * y_max:.4g}</text>')
        lines.append(f'<text x="{x}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{share * x_max:.4g}</text>')
    return "".join(lines)


def _timeline(result: SimulationResult) -> str:
    """Return how busy each machine was, one row each, darker for busier, and what happened to it."""
    rows: dict[str, list[Sample]] = defaultdict(list)
    for sample in result.samples:
        rows[sample.machine].append(sample)
    if not rows:
        return ""
    end_s = max(sample.at_s for sample in result.samples)
    starts_s = {machine.name: machine.start_s for machine in result.machines}
    heights = {machine: number * _ROW_HEIGHT for number, machine in enumerate(rows)}
    lines = []
    for machine, samples in rows.items():
        y = heights[machine]
        lines.append(f'<text x="{_LEFT + 44}" y="{y + _ROW_HEIGHT - 1}" text-anchor="end">{escape(machine)}</text>')
        lines += [_shaded(x, width, y, shade) for x, width, shade in _runs(samples, starts_s[machine], end_s)]
    lines += [_mark(event, heights[event.machine], end_s) for event in result.events if event.machine in heights]
    size = f'width="{2 * _WIDTH + _LEFT}" height="{len(rows) * _ROW_HEIGHT + 4}"'
    return f"<figure><figcaption>busy machines over time</figcaption><svg {size}>{''.join(lines)}</svg></figure>"


def _mark(event: Event, y: float, end_s: float) -> str:
    """Return a mark at the time of an event, which a pointer makes tell what it was."""
    x = _LEFT + 50 + event.at_s * (2 * _WIDTH - 60) / end_s
    told = escape(f"{event.machine} {event.kind} at {event.at_s:.0f} s")
    return f'<rect x="{x:.1f}" y="{y}" width="2" height="{_ROW_HEIGHT - 1}" fill="#c4572e"><title>{told}</title></rect>'


def _runs(samples: Sequence[Sample], start_s: float, end_s: float) -> list[tuple[float, float, int]]:
    """Return (x, width, shade) of stretches that are equally busy."""
    left, scale = _LEFT + 50, (2 * _WIDTH - 60) / end_s
    found: list[tuple[float, float, int]] = []
    before_s = start_s
    for sample in samples:
        x, width, shade = left + before_s * scale, (sample.at_s - before_s) * scale, round(sample.busy_share * _SHADES)
        if found and found[-1][2] == shade:
            x, width = found[-1][0], x + width - found[-1][0]
            found.pop()
        found.append((x, width, shade))
        before_s = sample.at_s
    return found


def _shaded(x: float, width: float, y: float, shade: int) -> str:
    if not shade:
        return ""
    opacity = shade / _SHADES
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW_HEIGHT - 1}" fill="#2f6f9f" opacity="{opacity}"/>'
    )
