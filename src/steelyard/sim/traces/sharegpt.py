"""Files of conversations in the manner of ShareGPT: a JSON list, or JSON lines, of one object per request.

Its sizes stand in ``prompt_len`` and ``output_len`` (or ``input_toks``/``output_toks``, ``input_length``/
``output_length``), already tokenised; a text is not enough, as no tokenizer is loaded here. When it comes stands in
``arrival_s``, or in ``arrival_time_ns``; without either it comes at 0 with all the others: pair such a file with
synthetic arrivals (``synthetic:poisson,rate=2,lengths=trace:FILE``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from steelyard.core.errors import InputError
from steelyard.sim.traces.lines import Row, json_rows, open_text
from steelyard.sim.traces.types import Trace, TraceRequest, ordered_trace

PROMPT_FIELDS = ("prompt_len", "input_toks", "input_length")
OUTPUT_FIELDS = ("output_len", "output_toks", "output_length")
_NS_PER_S = 1_000_000_000


def read_sharegpt(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        InputError: if an entry is not as it should be; it names file, line (or number of the entry) and field.
        StorageError: if the file cannot be read.
    """
    return ordered_trace(path.name, map(_request, _rows(path)))


def _rows(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        is_list = file.read(1) == "["
    if not is_list:
        yield from json_rows(path)
        return
    with open_text(path) as file:
        try:
            entries = json.load(file)
        except ValueError as error:
            raise InputError(f"it is no JSON ({error})", field=str(path), remedy="Give a JSON list") from None
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            raise InputError("it is no JSON object", field=where, remedy="Give one object per request")
        yield Row(entry, where)


def _request(row: Row) -> TraceRequest:
    prompt, output = row.first_of(PROMPT_FIELDS), row.first_of(OUTPUT_FIELDS)
    if row.has("arrival_time_ns"):
        arrival_s = row.number("arrival_time_ns") / _NS_PER_S
    else:
        arrival_s = row.number("arrival_s") if row.has("arrival_s") else 0.0
    return TraceRequest(arrival_s, row.tokens(prompt), row.tokens(output))
