"""Making a policy by its name, and checking its parameters: what all kinds of policies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, TypeVar

from steelyard.core.errors import ParamsError

T = TypeVar("T")


def make_registered(registry: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any], field: str) -> T:
    """Return what the factory registered under ``name`` makes of ``options``.

    Args:
        registry: name → factory; its parameters are the policy's options.
        name: a key of ``registry``.
        options: the fields of that policy's config.
        field: what users call the choice, for errors.

    Raises:
        ParamsError: if the name or an option is unknown, or an option's value out of range.
    """
    factory = registry.get(name)
    if factory is None:
        raise ParamsError(f"there is no policy {name!r}", field=field, remedy=f"Use one of {', '.join(registry)}")
    known = signature(factory).parameters
    for option in options:
        if option not in known:
            valid = ", ".join(known) or "none"
            raise ParamsError(f"{name} has no such option", field=option, remedy=f"Valid options: {valid}")
    return factory(**options)


def check_number(name: str, number: object, *, above: float) -> None:
    """Check a policy's parameter.

    Raises:
        ParamsError: if it is not a finite number greater than ``above``.
    """
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not above < float(number) < math.inf:  # type: ignore[arg-type]
        problem = f"{number!r} is not a finite number above {above:g}"
        raise ParamsError(problem, field=name, remedy="Give a larger number, or leave it at its default")


def check_count(name: str, number: object) -> None:
    """Check a policy's parameter.

    Raises:
        ParamsError: if it is not a whole number of at least 1.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ParamsError(f"{number!r} is not a positive whole number", field=name, remedy="Give at least 1")
