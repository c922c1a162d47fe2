"""Reading values out of configuration files that nobody vouches for: :class:`Keys`, one typed getter per kind.

A wrong type, a number that is not finite or a size out of all proportion is a
:class:`~steelyard.core.errors.ModelError` that names the file and the key. ``null`` counts as absent, except where a
getter's name begins with ``optional``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

from steelyard.core.errors import ModelError
from steelyard.models.config import MAX_LAYERS, MAX_WIDTH, Activation

T = TypeVar("T")

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


class Keys:
    """A mapping of untrusted values.

    Args:
        values: key → anything.
        file: what errors call the mapping, e.g. ``config.json``.
        prefix: put before every key, e.g. ``llama.`` in GGUF.
    """

    __slots__ = ("_file", "_prefix", "_values")

    def __init__(self, values: Mapping[str, object], file: str, prefix: str = "") -> None:
        self._values, self._file, self._prefix = values, file, prefix

    def __contains__(self, key: str) -> bool:
        """Whether the key is there with a value other than ``null``."""
        return self._values.get(self._prefix + key) is not None

    def wrong(self, key: str, problem: str, remedy: str = "") -> ModelError:
        """Return the error for a key whose value is wrong."""
        remedy = remedy or "Check that the file belongs to this model, or download it again"
        return ModelError(problem, field=f"{self._file}: {self._prefix}{key}", remedy=remedy)

    def count(self, key: str, default: int | None = None, most: int = MAX_WIDTH) -> int:
        """Return an integer between 1 and ``most``; ``default`` ``None`` means that the key is required."""
        value = self.integer(key, default)
        if not 1 <= value <= most:
            raise self.wrong(key, f"{value} is not between 1 and {most}")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer."""
        value = self._get(key, default)
        if not _is_integer(value):
            raise self.wrong(key, f"{_show(value)} is not an integer of 64 bits")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self._get(key, default)
        if not _is_finite(value):
            raise self.wrong(key, f"{_show(value)} is not a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{_show(value)} is neither true nor false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, f"{_show(value)} is not a string")
        return value

    def optional_count(self, key: str, default: int | None = None, most: int = 1 << 31) -> int | None:
        """Return an integer between 1 and ``most``, ``None`` for ``null``, the default if absent."""
        return self.count(key, most=most) if key in self else self._absent(key, default)

    def optional_number(self, key: str, default: float | None = None) -> float | None:
        """Return a finite number, ``None`` for ``null``, the default if absent."""
        return self.number(key) if key in self else self._absent(key, default)

    def optional_integer(self, key: str) -> int | None:
        """Return an integer, or ``None`` if absent."""
        return self.integer(key) if key in self else None

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return a list of integers (a lone one counts as a list), none for ``null``, the default if absent."""
        if key not in self:
            return self._absent(key, default) or ()
        value = self._values[self._prefix + key]
        items = value if isinstance(value, list | tuple) else (value,)
        if not all(map(_is_integer, items)):
            raise self.wrong(key, f"{_show(value)} is not a list of integers of 64 bits")
        return tuple(items)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        value = self._get(key, None)
        if not isinstance(value, list | tuple) or not all(map(_is_finite, value)):
            raise self.wrong(key, f"{_show(value)} is not a list of finite numbers")
        return tuple(float(item) for item in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, none if absent."""
        value = self._values.get(self._prefix + key) or ()
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, f"{_show(value)} is not a list of strings")
        return tuple(value)

    def layer_types(self, num_layers: int) -> tuple[str, ...] | None:
        """Return ``layer_types``, one string per layer, or ``None`` if absent."""
        if "layer_types" not in self:
            return None
        value = self._values[self._prefix + "layer_types"]
        if not isinstance(value, list | tuple) or len(value) != num_layers:
            raise self.wrong("layer_types", f"it is not a list of {num_layers} entries, one per layer")
        unknown = [kind for kind in value if kind not in ("full_attention", "sliding_attention")]
        if unknown:
            raise self.wrong("layer_types", f"{_show(unknown[0])} is not a kind of attention that is supported")
        return tuple(value)

    def section(self, key: str) -> Keys:
        """Return the mapping under a key, empty if absent."""
        value = self._values.get(self._prefix + key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"{_show(value)} is not an object")
        return Keys(value, f"{self._file}: {self._prefix}{key}")

    def activation(self, key: str, default: str) -> Activation:
        """Return the activation that a string names."""
        name = self.text(key, default)
        if name not in _ACTIVATIONS:
            raise self.wrong(key, f"{_show(name)} is not one of {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def num_layers(self, key: str, default: int | None = None) -> int:
        """Return the number of layers."""
        return self.count(key, default, MAX_LAYERS)

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(self._prefix + key)
        if value is None:
            value = default
        if value is None:
            raise self.wrong(key, "the key is missing")
        return value

    def _absent(self, key: str, default: T) -> T | None:
        return None if self._prefix + key in self._values else default


def _is_integer(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def _is_finite(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 1023


def _show(value: object) -> str:
    """Return an untrusted value, short and printable."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
