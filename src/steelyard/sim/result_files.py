"""A result as files: all of them come into being together, or none does.

A directory is written beside its place (``.NAME.new``) and renamed at the end, so a run that is killed leaves what was
there before, at worst under the name ``.NAME.old``; the next run clears both away.
``summary.json`` and the tables depend on the inputs alone, to the byte.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steelyard.core.errors import StorageError
from steelyard.sim.result import Event, MachineRecord, RequestRecord, Sample, SimulationResult

SUMMARY, REPORT = "summary.json", "report.html"
_TABLES: dict[str, type[Any]] = {
    "requests": RequestRecord,
    "machines": MachineRecord,
    "samples": Sample,
    "events": Event,
}


def write_result(directory: Path, results: Mapping[str, SimulationResult], setup: Mapping[str, Any], html: str) -> None:
    """Write results by name, ``setup`` beside their figures, and a report; what was in ``directory`` is replaced.

    Raises:
        StorageError: if it cannot be written, or holds anything but an earlier result.
    """
    temporary = directory.with_name(f".{directory.name}.new")
    replaced = directory.with_name(f".{directory.name}.old")
    try:
        _check_replaceable(directory)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        figures = {name: asdict(result.summary()) for name, result in results.items()}
        (temporary / SUMMARY).write_text(json_text({**setup, "results": figures}), encoding="utf-8")
        (temporary / REPORT).write_text(html, encoding="utf-8")
        for name, result in results.items():
            for table in _TABLES:
                _write_table(temporary / f"{name}.{table}", _columns(table, getattr(result, table)))
        shutil.rmtree(replaced, ignore_errors=True)
        if directory.exists():
            directory.rename(replaced)
        temporary.rename(directory)
    except OSError as error:
        problem = f"it cannot be written: {error.strerror or error}"
        raise StorageError(problem, field=str(directory), remedy="Give a directory that you may write to") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def json_text(value: Any) -> str:
    """Return JSON with a line per figure; numbers that JSON cannot say become ``null``."""
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_replaceable(directory: Path) -> None:
    """Refuse to replace what is no result of ours."""
    if directory.exists() and (not directory.is_dir() or (any(directory.iterdir()) and not _is_result(directory))):
        problem = "it is there already, and holds no result of a simulation"
        raise StorageError(problem, field=str(directory), remedy="Give a new directory")


def _is_result(directory: Path) -> bool:
    return (directory / SUMMARY).is_file() and (directory / REPORT).is_file()


def _columns(table: str, rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(_TABLES[table])}


def _write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write a Parquet file, or a CSV file where pyarrow is not installed."""
    write = _parquet_writer()
    if write is not None:
        write(columns, path.with_name(path.name + ".parquet"))
        return
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows(zip(*columns.values(), strict=True))
    path.with_name(path.name + ".csv").write_text(text.getvalue(), encoding="utf-8")


def _parquet_writer() -> Callable[[Mapping[str, list[Any]], Path], None] | None:
    if find_spec("pyarrow") is None:
        return None
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    return lambda columns, path: parquet.write_table(arrow.table(columns), path)
