"""The highest rate that a system serves within its objectives: :func:`goodput`.

Goodput is the largest request rate at which a given share of the requests meets its latency objectives (DistServe,
S53). Whether a rate is met is asked of whoever simulates or measures it.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.core.errors import ParamsError

_HIGHEST = 2.0**40
_LOWEST = 2.0**10


def goodput(
    is_met: Callable[[float], bool], *, start_per_s: float = 1.0, tolerance: float = 0.02, factor: float = 2.0
) -> float:
    """Return the highest rate that ``is_met``, within ``tolerance`` of it from below; 0 if none is.

    Rates grow by ``factor`` from ``start_per_s`` until one is not met, or shrink by it until one is, but not below a
    thousandth of it; then the interval is bisected. With noisy answers the boundary found is one of several.

    Args:
        is_met: asked about requests per second.
        start_per_s: where to begin; the nearer to the answer the fewer questions.
        tolerance: relative width of the interval at the end.
        factor: above 1; nearer to it the better the answer is known.

    Raises:
        ParamsError: if a number is not positive, the factor not above 1, or no rate is too high.
    """
    for name, value, least in (("start_per_s", start_per_s, 0), ("tolerance", tolerance, 0), ("factor", factor, 1)):
        if not value > least:
            raise ParamsError(f"{value:g} is not above {least}", field=name, remedy=f"Give a number above {least}")
    low, high = _bracket(is_met, start_per_s, factor)
    while low > 0 and high - low > tolerance * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low


def _bracket(is_met: Callable[[float], bool], start: float, factor: float) -> tuple[float, float]:
    """Return a rate that is met, or 0, and a higher one that is not."""
    rate = start
    if is_met(rate):
        while rate < _HIGHEST * start:
            if not is_met(factor * rate):
                return rate, factor * rate
            rate *= factor
        raise ParamsError(f"even {rate:g}/s is met", field="rate", remedy="Check the workload: it asks for nothing")
    while rate > start / _LOWEST:
        rate /= factor
        if is_met(rate):
            return rate, factor * rate
    return 0.0, rate
