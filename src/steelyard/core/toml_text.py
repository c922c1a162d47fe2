"""Writing TOML, for what ``tomllib`` reads: text, numbers, truth values, tables, and arrays of these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def toml_text(table: Mapping[str, Any]) -> str:
    """Return ``table`` as a TOML document; plain values come first in every table.

    Arrays hold plain values only or tables only; keys are bare words. ``None`` is not a TOML value: leave it out.
    """
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = [f"{key} = {_plain(value)}" for key, value in table.items() if not _is_nested(value)]
    nested = [line for key, value in table.items() if _is_nested(value) for line in _section(value, (*path, key))]
    return plain + nested


def _section(value: Any, path: tuple[str, ...]) -> list[str]:
    name = ".".join(path)
    if isinstance(value, Mapping):
        return ["", f"[{name}]", *_lines(value, path)]
    return [line for entry in value for line in ("", f"[[{name}]]", *_lines(entry, path))]


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (_is_array(value) and bool(value) and isinstance(value[0], Mapping))


def _is_array(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the one character that JSON leaves alone.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if _is_array(value):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    assert isinstance(value, (int, float)), f"{value!r} cannot be written as TOML"
    return repr(value)
