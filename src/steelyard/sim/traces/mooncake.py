"""Mooncake's traces (FAST'25), JSON lines: ``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids``."""

from __future__ import annotations

from pathlib import Path

from steelyard.core.units import ceil_div
from steelyard.sim.traces.lines import Row, json_rows
from steelyard.sim.traces.types import HASH_BLOCK_TOKENS, Trace, TraceRequest, ordered_trace

FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def read_mooncake(path: Path) -> Trace:
    """Return the trace in a file.

    Raises:
        InputError: if a line is not as it should be; it names file, line and field.
        StorageError: if the file cannot be read.
    """
    return ordered_trace(path.name, (_request(row) for row in json_rows(path)))


def _request(row: Row) -> TraceRequest:
    num_prompt_tokens = row.tokens("input_length")
    return TraceRequest(
        row.number("timestamp") / 1000,
        num_prompt_tokens,
        row.tokens("output_length"),
        _hash_ids(row, ceil_div(num_prompt_tokens, HASH_BLOCK_TOKENS)),
    )


def _hash_ids(row: Row, num_blocks: int) -> tuple[int, ...]:
    found = row.value("hash_ids")
    if not isinstance(found, list) or not all(type(number) is int and number >= 0 for number in found):
        raise row.error("hash_ids", "it is no list of whole numbers from 0", "Give one number per block")
    if len(found) != num_blocks:
        problem = f"{len(found)} numbers stand for a prompt of {num_blocks} blocks of {HASH_BLOCK_TOKENS} tokens"
        raise row.error("hash_ids", problem, "Give one number per block, the last one included")
    return tuple(found)
