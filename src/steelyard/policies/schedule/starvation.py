"""The bound on waiting that policies with favourites share: whoever came too long ago goes first, by arrival."""

from __future__ import annotations

import math

from steelyard.core.errors import ParamsError
from steelyard.policies.schedule.types import SchedulerView

DEFAULT_STARVATION_S = 30.0


def starving_before_s(view: SchedulerView, starvation_s: float) -> float:
    """Return the time such that sequences which arrived before it starve, whether they ran in between or not.

    Counting from arrival, a sequence that starves once does so until it ends. Starving sequences thus keep their order
    for good, which a count of waiting time alone would not give.
    """
    return view.now_s - starvation_s


def check_starvation_s(starvation_s: object) -> None:
    """Check the parameter of that name.

    Raises:
        ParamsError: if it is not a finite number of at least 0.
    """
    is_number = isinstance(starvation_s, (int, float)) and not isinstance(starvation_s, bool)
    if not is_number or not math.isfinite(starvation_s) or starvation_s < 0:  # type: ignore[arg-type, operator]
        problem = f"{starvation_s!r} is not a finite number of seconds of at least 0"
        raise ParamsError(problem, field="starvation_s", remedy=f"Use the default, {DEFAULT_STARVATION_S:g}")
