"""BurstGPT's traces: ``Timestamp`` in s, ``Request tokens``, ``Response tokens``, and columns not needed here.

A response of 0 tokens is that format's word for a request that failed; such lines are left out and counted in a notice.
"""

from __future__ import annotations

from pathlib import Path

from steelyard.sim.traces.lines import Row, csv_rows
from steelyard.sim.traces.types import Trace, TraceRequest, ordered_trace

FIELDS = ("Timestamp", "Request tokens", "Response tokens")


def read_burstgpt(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        InputError: if a line is not as it should be; it names file, line and field.
        StorageError: if the file cannot be read.
    """
    rows = list(csv_rows(path, *FIELDS))
    answered = [row for row in rows if row.number("Response tokens") != 0]
    num_failed = len(rows) - len(answered)
    notices = [f"{num_failed} requests of {path.name} failed when it was recorded; left out"] if num_failed else []
    return ordered_trace(path.name, map(_request, answered), *notices)


def _request(row: Row) -> TraceRequest:
    return TraceRequest(row.number("Timestamp"), row.tokens("Request tokens"), row.tokens("Response tokens"))
