"""What a chat template is about to make, estimated before it is made: checks that refuse what would be huge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from steelyard.models.text.template_meter import Meter, TemplateLimitError

MAX_SIZE_ARGUMENT = 1024
WIDE_FORMAT = re.compile(r"\*|[0-9]{4,}")

_SIZED_FILTERS = frozenset({"batch", "slice", "center", "indent", "truncate", "round"})


def check_sizes(arguments: Iterable[object]) -> None:
    """Refuse sizes, widths and paddings that no chat needs."""
    for argument in arguments:
        size = len(argument) if isinstance(argument, str) else argument
        if isinstance(size, int) and size > MAX_SIZE_ARGUMENT:
            raise TemplateLimitError(f"it asks for a size of over {MAX_SIZE_ARGUMENT}")


def _check_add(meter: Meter, left: object, right: object) -> None:
    if not isinstance(left, (int, float)):
        meter.allow_chars(meter.weigh(left) + meter.weigh(right))


def _check_multiply(meter: Meter, left: object, right: object) -> None:
    if isinstance(left, int) and isinstance(right, int):
        meter.allow_bits(left.bit_length() + right.bit_length())
        return
    for factor, value in ((left, right), (right, left)):
        if isinstance(factor, int) and isinstance(value, (str, list, tuple)):
            meter.allow_chars(max(factor, 0) * meter.weigh(value))


def _check_power(meter: Meter, left: object, right: object) -> None:
    if isinstance(left, int) and isinstance(right, int):
        meter.allow_bits(left.bit_length() * max(right, 0))


def _check_format(meter: Meter, left: object, right: object) -> None:
    if isinstance(left, str):
        if WIDE_FORMAT.search(left):
            raise TemplateLimitError("it formats a text too wide")
        meter.allow_chars(left.count("%") * meter.weigh(right))


def check_replace(meter: Meter, text: str, args: tuple[Any, ...]) -> None:
    """Refuse ``text.replace(*args)`` if the result is too large."""
    if len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        places = text.count(args[0]) if args[0] else len(text) + 1
        meter.allow_chars(len(text) + places * len(args[1]))


def check_join(meter: Meter, separator: str, args: tuple[Any, ...]) -> None:
    """Refuse ``separator.join(*args)`` if the result is too large."""
    if args and isinstance(args[0], (str, list, tuple, dict)):
        meter.allow_chars(meter.weigh(args[0]) + len(separator) * len(args[0]))


def check_filter(name: str, meter: Meter, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a filter that would make something huge."""
    arguments = (*args, *kwargs.values())
    if name in _SIZED_FILTERS:
        check_sizes(arguments)
    if name == "indent" and arguments:
        width = arguments[0]
        size = len(width) if isinstance(width, str) else width if isinstance(width, int) else 0
        meter.allow_chars(len(str(value)) + str(value).count("\n") * size)
    elif name == "replace":
        old, new = args[:2] if len(args) >= 2 else (kwargs.get("old", ""), kwargs.get("new", ""))
        check_replace(meter, str(value), (str(old), str(new)))
    elif name == "format":
        _check_format(meter, value, arguments)
    elif name == "sum" and any(isinstance(argument, (list, tuple)) for argument in arguments):
        raise TemplateLimitError("it adds up lists")


CHECK_OPERATOR: Mapping[str, Callable[[Meter, object, object], None]] = {
    "+": _check_add,
    "*": _check_multiply,
    "**": _check_power,
    "%": _check_format,
}
