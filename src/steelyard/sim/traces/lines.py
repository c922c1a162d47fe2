"""Reading a trace's file line by line, with errors that name file, line and field."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from steelyard.core.errors import InputError, StorageError
from steelyard.sim.traces.types import MAX_TOKENS

GZIP_MAGIC = b"\x1f\x8b"


class Row:
    """One record of a file and where it stands.

    Args:
        values: by field.
        where: file and line, for errors.
    """

    __slots__ = ("_values", "_where")

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where

    def value(self, field: str) -> Any:
        """Return what stands in a field; raises like :meth:`tokens` if it is missing or empty."""
        found = self._values.get(field)
        if found is None or found == "":
            raise self.error(field, "it is missing", "Fill the gap, or remove the line")
        return found

    def has(self, field: str) -> bool:
        """Return whether a field is there."""
        return field in self._values

    def first_of(self, fields: tuple[str, ...]) -> str:
        """Return the first of ``fields`` that is there, else the first."""
        return next(filter(self.has, fields), fields[0])

    def tokens(self, field: str) -> int:
        """Return a number of tokens.

        Raises:
            InputError: if it is missing, no whole number, not positive, or beyond all reason; names file, line, field.
        """
        number = self.number(field)
        if number != int(number):
            raise self.error(field, f"{self.value(field)!r} is no whole number", "Give a whole number of tokens")
        if not 1 <= number <= MAX_TOKENS:
            problem = f"{int(number)} is not from 1 to {MAX_TOKENS} tokens"
            raise self.error(field, problem, "Correct the number, or remove the line")
        return int(number)

    def number(self, field: str) -> float:
        """Return a finite number; raises like :meth:`tokens`."""
        value = self.value(field)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(field, f"{value!r} is no finite number", "Give a number")
        return number

    def error(self, field: str, problem: str, remedy: str) -> InputError:
        """Return the error that blames a field of this line."""
        return InputError(f"{field}: {problem}", field=self._where, remedy=remedy)


def csv_rows(path: Path, *fields: str) -> Iterator[Row]:
    """Yield the records of a CSV file with a header line.

    Raises:
        InputError: if a field is missing from the header, or a line has too many.
        StorageError: if the file cannot be read.
    """
    with open_text(path) as file:
        lines = csv.DictReader(_readable(file, path))
        for field in fields:
            if field not in (lines.fieldnames or ()):
                problem = f"{field}: there is no such column"
                raise InputError(problem, field=f"{path}:1", remedy=f"Give a header with {', '.join(fields)}")
        for values in lines:
            row = Row(values, f"{path}:{lines.line_num}")
            if None in values:
                raise row.error(fields[-1], "there are more values than columns", "Correct the line")
            yield row


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON lines; empty lines are left out.

    Raises:
        InputError: if a line is no JSON object.
        StorageError: if the file cannot be read.
    """
    with open_text(path) as file:
        for number, line in enumerate(_readable(file, path), 1):
            if line.strip():
                where = f"{path}:{number}"
                yield Row(_json_object(line, where), where)


def _json_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"it is no JSON ({error})", field=where, remedy="Correct or remove the line") from None
    if not isinstance(found, dict):
        raise InputError("it is no JSON object", field=where, remedy="Give one object per line")
    return found


def open_text(path: Path) -> IO[str]:
    """Open a text file, unpacking it if it is gzipped.

    Raises:
        StorageError: if it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        return gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise _unreadable(path, error) from error


def _readable(lines: Iterable[str], path: Path) -> Iterator[str]:
    """Yield lines, turning what goes wrong on the way into errors for users."""
    try:
        yield from lines
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError("it is no UTF-8 text", field=str(path), remedy="Give a text file") from error


def _unreadable(path: Path, error: Exception) -> StorageError:
    problem = f"it cannot be read: {getattr(error, 'strerror', None) or error}"
    return StorageError(problem, field=str(path), remedy="Give a file that is there and whole")
