"""The highest rate that a system serves within its objectives: :func:`goodput`.

Goodput is the largest request rate at which a given share of the requests meets its latency objectives (DistServe,
S53). Whether a rate is met is asked of whoever simulates or measures it.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.core.errors import ParamsError

_MAX_DOUBLINGS = 40
_MAX_HALVINGS = 10


def goodput(is_met: Callable[[float], bool], *, start_per_s: float = 1.0, tolerance: float = 0.02) -> float:
    """Return the highest rate that ``is_met``, within ``tolerance`` of it from below; 0 if none is.

    Rates double from ``start_per_s`` until one is not met, or are halved until one is, but not below a thousandth
    of it; then the interval is bisected. With noisy answers the boundary found is one of several.

    Args:
        is_met: asked about requests per second.
        start_per_s: where to begin; the nearer to the answer the fewer questions.
        tolerance: relative width of the interval at the end.

    Raises:
        ParamsError: if a number is not positive, or no rate is too high.
    """
    for name, value in (("start_per_s", start_per_s), ("tolerance", tolerance)):
        if not value > 0:
            raise ParamsError(f"{value:g} is not positive", field=name, remedy="Give a number above 0")
    low, high = _bracket(is_met, start_per_s)
    while low > 0 and high - low > tolerance * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low


def _bracket(is_met: Callable[[float], bool], start: float) -> tuple[float, float]:
    """Return a rate that is met, or 0, and a higher one that is not."""
    rate = start
    if is_met(rate):
        for _ in range(_MAX_DOUBLINGS):
            if not is_met(2 * rate):
                return rate, 2 * rate
            rate *= 2
        raise ParamsError(f"even {rate:g}/s is met", field="rate", remedy="Check the workload: it asks for nothing")
    for _ in range(_MAX_HALVINGS):
        rate /= 2
        if is_met(rate):
            return rate, 2 * rate
    return 0.0, rate
