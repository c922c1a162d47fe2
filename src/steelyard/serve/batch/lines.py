"""Reading an input file: each line as OpenAI wants it, and every fault with its line's number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steelyard.serve.batch.types import Fault, Line

MAX_LINES = 50_000  # OpenAI's
_MAX_FAULTS = 100
_MAX_ID_CHARS = 512
_FIELDS = {"custom_id": str, "method": str, "url": str, "body": dict}


class LineError(Exception):
    """A line is wrong: ``args[0]`` is its :class:`~steelyard.serve.batch.types.Fault`."""


def find_faults(path: Path, endpoint: str, max_lines: int) -> list[Fault]:
    """Return what is wrong with a file, as far as it fits into a hundred faults.

    Args:
        path: of the file, JSON Lines.
        endpoint: where all lines must go.
        max_lines: that it may have.
    """
    seen: set[str] = set()
    faults: list[Fault] = []
    for number, text in numbered_lines(path):
        try:
            line, url = read_line(number, text)
            _check_place(number, url, endpoint)
            if line.custom_id in seen:
                raise _fault(number, "duplicate_custom_id", f"the custom_id {line.custom_id!r:.80} is there twice")
            seen.add(line.custom_id)
        except LineError as error:
            faults.append(error.args[0])
        if len(faults) == _MAX_FAULTS or len(seen) > max_lines:
            break
    if len(seen) > max_lines:
        faults.append(Fault(code="too_many_requests", message=f"there are more than {max_lines} lines. Split them."))
    if not seen and not faults:
        faults.append(Fault(code="empty_file", message="the file has no lines. Give at least one request."))
    return faults


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file without faults."""
    for number, text in numbered_lines(path):
        yield read_line(number, text)[0]


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, text


def read_line(number: int, text: bytes) -> tuple[Line, str]:
    """Return a line and its address.

    Raises:
        LineError: if it is no JSON object, or a field is missing, unknown or wrong.
    """
    found = _object(number, text)
    for name, kind in _FIELDS.items():
        if name not in found:
            raise _fault(number, "missing_required_parameter", f"{name} is missing", name)
        if not isinstance(found[name], kind):
            raise _fault(number, "invalid_type", f"{name} is no {'object' if kind is dict else 'text'}", name)
    unknown = sorted(found.keys() - _FIELDS.keys())
    if unknown:
        raise _fault(number, "unknown_parameter", f"{unknown[0]!r:.80} is not known here", unknown[0][:80])
    if found["method"] != "POST":
        raise _fault(number, "invalid_method", "the method is not POST", "method")
    _check_id(number, found["custom_id"])
    return Line(number=number, custom_id=found["custom_id"], body=json.dumps(found["body"])), found["url"]


def _object(number: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise _fault(number, "invalid_json_line", "this line is no JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise _fault(number, "invalid_json_line", "this line is no JSON object")
    return found


def _check_id(number: int, custom_id: str) -> None:
    """Raise :class:`LineError` for what no database keeps: surrogates without their other half, and NUL."""
    is_text = "\0" not in custom_id and not any("\ud800" <= sign <= "\udfff" for sign in custom_id)
    if not (is_text and 1 <= len(custom_id) <= _MAX_ID_CHARS):
        raise _fault(number, "invalid_custom_id", f"it is no text of 1 to {_MAX_ID_CHARS} characters", "custom_id")


def _check_place(number: int, url: str, endpoint: str) -> None:
    if url != endpoint:
        raise _fault(number, "invalid_url", f"the url is not the batch's endpoint, {endpoint}", "url")


def _fault(number: int, code: str, problem: str, param: str | None = None) -> LineError:
    return LineError(Fault(code=code, message=f"{problem}.", line=number, param=param))
