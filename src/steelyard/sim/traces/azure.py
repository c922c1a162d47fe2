"""Azure's traces of LLM inference of 2023 (published with Splitwise): ``TIMESTAMP,ContextTokens,GeneratedTokens``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from steelyard.sim.traces.lines import Row, csv_rows
from steelyard.sim.traces.types import Trace, TraceRequest, ordered_trace

FIELDS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TICKS_PER_S = 10_000_000
_ORIGIN = datetime(2023, 1, 1)  # all times of a trace are of one zone, which cancels out


def read_azure(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        InputError: if a line is not as it should be; it names file, line and field.
        StorageError: if the file cannot be read.
    """
    return ordered_trace(path.name, (_request(row) for row in csv_rows(path, *FIELDS)))


def _request(row: Row) -> TraceRequest:
    return TraceRequest(_seconds(row), row.tokens("ContextTokens"), row.tokens("GeneratedTokens"))


def _seconds(row: Row) -> float:
    """Return a time stamp in seconds from 2023; it has seven decimals, one more than Python's dates."""
    text = str(row.value("TIMESTAMP"))
    date, _, decimals = text.partition(".")
    try:
        whole = datetime.fromisoformat(date) - _ORIGIN
        ticks = int(decimals.ljust(7, "0")[:7] or 0)
    except ValueError:
        raise row.error("TIMESTAMP", f"{text!r} is no time", "Give YYYY-MM-DD HH:MM:SS.fffffff") from None
    return (whole.days * 86_400 + whole.seconds) + ticks / _TICKS_PER_S
