"""From figures to tables: median, lowest and highest, and the ratio to the best peer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peerbench.contenders import OURS, Contender
from peerbench.measure import Results
from peerbench.workloads import Workload
from steelyard.core.units import MIB

RSS_TITLE = "peak RSS"


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({self.lowest:.{digits}f} … {self.highest:.{digits}f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One measure of all contenders; who has no figure is not in ``spreads``."""

    title: str
    spreads: Mapping[str, Spread]
    more_is_better: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """Where we stand against the best peer; a ratio above 1 means that we are better."""

    ratio: float
    peer: str


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest."""
    return Spread(statistics.median(values), min(values), max(values))


def standing(column: Column) -> Standing | None:
    """Compare us with the best peer by medians; ``None`` if either is missing."""
    peers = {name: each.median for name, each in column.spreads.items() if name != OURS}
    if OURS not in column.spreads or not peers:
        return None
    best = (max if column.more_is_better else min)(peers, key=lambda name: peers[name])
    ours, theirs = column.spreads[OURS].median, peers[best]
    return Standing(ours / theirs if column.more_is_better else theirs / ours, best)


def columns(results: Results, workloads: Mapping[str, Workload]) -> list[Column]:
    """Return a column per workload, and one for memory if processes were started."""
    made = [
        Column(
            title=f"{workload.title}, {workload.unit}",
            spreads={name: spread(values) for name, values in results.figures[key].items() if values},
            more_is_better=workload.more_is_better,
        )
        for key, workload in workloads.items()
    ]
    if results.peak_rss_bytes:
        memory = {name: spread([value / MIB for value in values]) for name, values in results.peak_rss_bytes.items()}
        made.append(Column(title=f"{RSS_TITLE} there, MiB", spreads=memory, more_is_better=False))
    return made


def table(names: Sequence[str], shown: Sequence[Column]) -> list[str]:
    """Return a Markdown table: a row per contender, the best of each column bold, our standing last."""
    lines = [row(["contender", *(column.title for column in shown)]), row(["---"] * (len(shown) + 1))]
    lines += [row([name, *(cell(column, name) for column in shown)]) for name in names]
    standings = [standing(column) for column in shown]
    lines.append(row(["**steelyard against the best peer**", *(_verdict(each) for each in standings)]))
    return lines


def cell(column: Column, name: str) -> str:
    """Return one contender's figure, bold if none is better; a dash if it has none."""
    if name not in column.spreads:
        return "–"
    medians = [each.median for each in column.spreads.values()]
    best = max(medians) if column.more_is_better else min(medians)
    text = str(column.spreads[name])
    return f"**{text}**" if column.spreads[name].median == best else text


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def notes(contenders: Mapping[str, Contender], results: Results) -> list[str]:
    """Return what a reader must know of each contender, and why figures are missing."""
    lines = [
        f"- {name} ({results.versions[name]}): {contender.note}"
        for name, contender in contenders.items()
        if name in results.versions
    ]
    return lines + [f"- without a figure: {what}: {why}" for what, why in results.failures.items()]


def _verdict(each: Standing | None) -> str:
    return "–" if each is None else f"{each.ratio:.2f}× {each.peer}"
