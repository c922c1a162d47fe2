"""Units: constants and the one way in which sizes and times are printed."""

from __future__ import annotations

import re

from steelyard.core.errors import ParamsError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_BYTE_STEPS = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_SIZE_STEPS = {"": 1, "k": KIB, "m": MIB, "g": GIB}


def parse_bytes(field: str, text: str) -> int:
    """Return a size such as ``512MiB``, ``2G`` or ``1000000`` in bytes; units are binary.

    Raises:
        ParamsError: if it is no size, or zero; it names ``field``.
    """
    match = _SIZE.fullmatch(text.strip())
    num_bytes = int(float(match[1]) * _SIZE_STEPS[match[2].lower()]) if match else 0
    if num_bytes < 1:
        raise ParamsError(f"{text!r} is no size", field=field, remedy="Give bytes, or a number with KiB, MiB or GiB")
    return num_bytes


def format_bytes(num_bytes: float) -> str:
    """Return ``num_bytes`` in the largest binary unit that keeps it at or above one, e.g. ``1.50 GiB``."""
    for step, name in _BYTE_STEPS:
        if abs(num_bytes) >= step:
            return f"{num_bytes / step:.2f} {name}"
    return f"{num_bytes:.0f} B"


def format_seconds(seconds: float) -> str:
    """Return ``seconds`` as ``s``, ``ms`` or ``µs``, three significant digits, e.g. ``12.3 ms``."""
    if abs(seconds) >= 1:
        return f"{seconds:.3g} s"
    if abs(seconds) >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def ceil_div(numerator: int, denominator: int) -> int:
    """Return ``numerator / denominator`` rounded up, for a positive denominator."""
    return -(-numerator // denominator)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is at least ``number``."""
    return ceil_div(number, multiple) * multiple
