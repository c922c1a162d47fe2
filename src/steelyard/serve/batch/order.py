"""In which order lines are sent: pure decisions over a window of them (S59: by the prefixes they share)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from steelyard.core.errors import ParamsError
from steelyard.serve.batch.types import Line

LineOrder = Callable[[Sequence[Line]], list[Line]]


def as_given(lines: Sequence[Line]) -> list[Line]:
    """Return the lines as the input has them."""
    return list(lines)


def by_prefix(lines: Sequence[Line]) -> list[Line]:
    """Return lines of equal beginnings next to each other, so that each finds the prefix of the one before it cached.

    Bodies are compared as they are written: fields that stand before the prompt keep lines apart, too.
    """
    return sorted(lines, key=lambda line: (line.body, line.number))


LINE_ORDERS: Mapping[str, LineOrder] = {"as_given": as_given, "by_prefix": by_prefix}


def line_order(name: str) -> LineOrder:
    """Return the order registered under ``name``.

    Raises:
        ParamsError: if there is none, listing them.
    """
    if name not in LINE_ORDERS:
        raise ParamsError(f"{name!r} is not known", field="batch_order", remedy=f"Use one of {', '.join(LINE_ORDERS)}")
    return LINE_ORDERS[name]
