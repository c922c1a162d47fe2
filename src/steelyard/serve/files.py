"""Files that whoever starts the server names: its configuration, in YAML, and its API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from steelyard.core.errors import ParamsError


def read_config_file(path: str) -> dict[str, Any]:
    """Return the settings in a YAML file.

    Raises:
        ParamsError: if it cannot be read or is no mapping of names to values.
    """
    try:
        found = yaml.safe_load(_read(path, "config"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise ParamsError(f"{path} is no YAML{line}", field="config", remedy="Write lines such as 'port: 80'") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ParamsError(f"{path} has no settings", field="config", remedy="Write lines such as 'port: 80'")
    return {str(name).replace("-", "_"): value for name, value in found.items()}


def read_key_file(path: str) -> tuple[str, ...]:
    """Return the keys in a file: one a line, ``SECRET`` or ``NAME:SECRET``; ``#`` begins a comment line.

    Raises:
        ParamsError: if it cannot be read or has none.
    """
    lines = [line.strip() for line in _read(path, "api_key_file").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ParamsError(f"{path} has no key", field="api_key_file", remedy="Write one key a line")
    return keys


def _read(path: str, field: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} cannot be read ({type(error).__name__})"
        raise ParamsError(problem, field=field, remedy="Give a text file in UTF-8") from None
