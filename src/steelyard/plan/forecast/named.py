"""Forecasters by name. One is imported when it is asked for, so that its libraries are no other's burden."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from steelyard.core.errors import InputError
from steelyard.core.names import pick
from steelyard.plan.forecast.types import FitRequest, Forecaster

NAIVE, SEASONAL = "naive", "seasonal"
FORECASTERS: dict[str, tuple[str, str]] = {
    "harmony": ("steelyard.plan.forecast.harmony", "make_harmony"),
    "recurrent": ("steelyard.plan.forecast.deep_ar", "make_recurrent"),
    "smoothing": ("steelyard.plan.forecast.baselines", "make_smoothing"),
    "arima": ("steelyard.plan.forecast.baselines", "make_arima"),
    NAIVE: ("steelyard.plan.forecast.repeat", "make_last"),
    SEASONAL: ("steelyard.plan.forecast.repeat", "make_seasonal"),
}
"""Name → module, and its function that makes one."""


def make_forecaster(name: str, asked: FitRequest) -> Forecaster:
    """Return the forecaster called ``name``, fitted to a series' training part.

    Raises:
        InputError: if there is none, a library that it needs is not installed, or the series is too short for it.
    """
    module, function = pick(FORECASTERS, name, field="forecaster")
    try:
        make: Callable[[FitRequest], Forecaster] = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        problem = f"{name} needs {error.name}, which is not installed"
        raise InputError(problem, field="forecaster", remedy="Run: pip install 'steelyard[plan]'") from error
    return make(asked)
