"""Seconds of collective operations: by the α-β model over a link, and as NCCL was measured.

A message of ``n`` bytes takes ``α + n / β`` from one rank to the next (Hockney); rings and trees are sums of such
messages (Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005), and
every collective starts after a fixed time of its own. Sizes are those of NCCL: what a rank has after an all-gather and
before a reduce-scatter, all-to-all or all-reduce. Left out: contention, which the simulator's links model.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources

from steelyard.core.errors import InputError
from steelyard.core.names import suggestion
from steelyard.cost.tables import Grid, InterpolationError
from steelyard.hardware.catalogue.types import CatalogueLink


class Collective(Enum):
    """What ranks do together."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    SEND = "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaBeta:
    """A link as collectives find it.

    Attributes:
        start_s: of a collective, before its first message.
        hop_s: of an empty message (α).
        bytes_per_s: of long messages, one way and per rank (β).

    Raises:
        InputError: if a time is negative, or the rate not positive.
    """

    start_s: float
    hop_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        for name in ("start_s", "hop_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{getattr(self, name)} is no duration", field=name, remedy="Give seconds, 0 or more")
        if not self.bytes_per_s > 0:
            raise InputError(f"{self.bytes_per_s} is no rate", field="bytes_per_s", remedy="Give a number above 0")

    def seconds(self, collective: Collective, num_ranks: int, num_bytes: float) -> float:
        """Return what a collective of ``num_bytes`` takes; nothing with one rank.

        Raises:
            InputError: if there are fewer ranks than one, or negative bytes.
        """
        if num_ranks < 1 or num_bytes < 0:
            problem = f"{num_bytes} bytes over {num_ranks} ranks cannot be"
            raise InputError(problem, field="num_ranks", remedy="Give at least one rank and no negative size")
        if num_ranks == 1:
            return 0.0
        return self.start_s + min(
            hops * self.hop_s + share * num_bytes / self.bytes_per_s for hops, share in _ways(collective, num_ranks)
        )


# Least squares of the logarithms over the shipped table, all of a device's collectives, ranks and sizes together. The
# L40S has none: its ranks meet over PCI Express, where eight of them reach a tenth of what two do.
FITS = {
    "a100-80gb": AlphaBeta(start_s=11.3e-6, hop_s=0.913e-6, bytes_per_s=152e9),
    "h100": AlphaBeta(start_s=6.43e-6, hop_s=0.841e-6, bytes_per_s=258e9),
    "h200": AlphaBeta(start_s=5.99e-6, hop_s=1.005e-6, bytes_per_s=264e9),
}


def link_fit(link: CatalogueLink) -> AlphaBeta:
    """Return a link that nobody measured collectives on: its full rate, and its latency as that of a message."""
    return AlphaBeta(start_s=0.0, hop_s=link.latency_s or 0.0, bytes_per_s=link.bandwidth_bytes_per_s)


def hierarchical_all_reduce_s(inner: AlphaBeta, outer: AlphaBeta, ranks: tuple[int, int], num_bytes: float) -> float:
    """Return what an all-reduce over several machines takes: scattered within, reduced between, gathered within.

    Args:
        inner: between the devices of a machine.
        outer: between machines, as each device finds it.
        ranks: devices per machine, and machines.
        num_bytes: per device.
    """
    within, between = ranks
    return (
        inner.seconds(Collective.REDUCE_SCATTER, within, num_bytes)
        + outer.seconds(Collective.ALL_REDUCE, between, num_bytes / within)
        + inner.seconds(Collective.ALL_GATHER, within, num_bytes)
    )


def _ways(collective: Collective, num_ranks: int) -> tuple[tuple[float, float], ...]:
    """Return messages one after another, and bytes sent per rank as a share of the size, of each algorithm."""
    others, share, depth = num_ranks - 1, (num_ranks - 1) / num_ranks, math.ceil(math.log2(num_ranks))
    if collective is Collective.ALL_REDUCE:
        return ((2 * others, 2 * share), (2 * depth, 2.0))
    if collective is Collective.SEND:
        return ((1, 1.0),)
    return ((others, share),)


# -- as measured ------------------------------------------------------------------------------------------------------


def measured_s(device: str, collective: Collective, num_ranks: int, num_bytes: float) -> float:
    """Return what NCCL took within one machine, between the sizes that were measured.

    Raises:
        InputError: if nobody measured it; it says what was.
    """
    return _grid(device, collective, num_ranks).at(num_bytes)


def measured_error(device: str, collective: Collective, num_ranks: int) -> InterpolationError:
    """Return the leave-one-out error of :func:`measured_s`, which raises ``InputError`` alike."""
    return _grid(device, collective, num_ranks).error()


def fit_error(device: str) -> InterpolationError:
    """Return how far the device's :data:`FITS` lie from all that was measured on it.

    Raises:
        InputError: if it has no fit.
    """
    if device not in FITS:
        raise InputError(f"{device!r} has no fit", field="device", remedy=suggestion(device, FITS))
    return InterpolationError.of(_deviations(FITS[device], device))


def _deviations(fit: AlphaBeta, device: str) -> Iterable[float]:
    for (name, collective, ranks), grid in _grids().items():
        if name == device:
            for size in grid.axes[0]:
                true = grid.at(size)
                yield abs(fit.seconds(collective, ranks, size) - true) / true


def _grid(device: str, collective: Collective, num_ranks: int) -> Grid:
    key = (device, collective, num_ranks)
    if key not in _grids():
        known = ", ".join(f"{name} {what.value} of {ranks}" for name, what, ranks in _grids())
        problem = f"{device} {collective.value} of {num_ranks} was not measured"
        raise InputError(problem, field="collective", remedy=f"There are: {known}")
    return _grids()[key]


@cache
def _grids() -> dict[tuple[str, Collective, int], Grid]:
    text = resources.files("steelyard.cost").joinpath("data", "collectives.csv").read_text(encoding="utf-8")
    tables = dict[tuple[str, Collective, int], dict[tuple[float, ...], float]]()
    for row in csv.DictReader(text.splitlines()):
        key = (row["device"], Collective(row["collective"]), int(row["ranks"]))
        tables.setdefault(key, {})[(float(row["bytes"]),)] = float(row["seconds"])
    return {key: Grid(table) for key, table in tables.items()}
