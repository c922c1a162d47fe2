"""Traces of requests: readers of the formats they are published in, and processes that draw them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from steelyard.core.errors import InputError, ParamsError
from steelyard.sim.traces import azure, burstgpt, mooncake, sharegpt
from steelyard.sim.traces.lines import open_text
from steelyard.sim.traces.synthetic import (
    SyntheticConfig,
    independent_lengths,
    lengths_of,
    published_lengths,
    synthetic_trace,
)
from steelyard.sim.traces.types import Trace

READERS: dict[str, Callable[[Path], Trace]] = {
    "azure": azure.read_azure,
    "burstgpt": burstgpt.read_burstgpt,
    "mooncake": mooncake.read_mooncake,
    "sharegpt": sharegpt.read_sharegpt,
}
# A field that stands in the first line of files of that format, and of no other.
_MARKS = {"azure": "ContextTokens", "burstgpt": "Response tokens", "mooncake": "hash_ids"}
SYNTHETIC = "synthetic"
_NUMBERS = ("rate", "duration", "count", "cv", "swing", "period", "burst", "every", "factor")
_WORDS = ("prompt", "output", "lengths")


def load_trace(text: str, seed: int) -> Trace:
    """Return the trace that ``FILE``, ``FORMAT:FILE`` or ``synthetic:…`` names.

    Args:
        text: without a format, the file's first line tells which it is.
        seed: of what is drawn.

    Raises:
        InputError: if it names no trace, or the file holds none; it says where.
        StorageError: if the file cannot be read.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == SYNTHETIC:
        return drawn_trace(rest, seed)
    if colon and kind in READERS:
        return READERS[kind](Path(rest))
    return READERS[_format_of(Path(text))](Path(text))


def _format_of(path: Path) -> str:
    with open_text(path) as file:
        try:
            start = file.readline()
        except (UnicodeDecodeError, EOFError):
            raise InputError("it is no text", field=str(path), remedy="Give a trace's file") from None
    found = next((name for name, mark in _MARKS.items() if mark in start), None)
    if found is None and start.lstrip()[:1] in ("{", "["):
        found = "sharegpt"
    if found is None:
        problem = f"its first line is that of no known format ({', '.join(READERS)})"
        raise InputError(problem, field=str(path), remedy="Name the format, as in azure:FILE")
    return found


def drawn_trace(text: str, seed: int) -> Trace:
    """Return the trace that ``PROCESS,key=value,…`` describes; see :mod:`steelyard.sim.traces.synthetic`.

    Raises:
        ParamsError: if a key is unknown or a value out of range.
    """
    process, *pairs = text.split(",")
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in (*_NUMBERS, *_WORDS) or key in given:
            remedy = f"Give KEY=VALUE, each once, of {', '.join((*_NUMBERS, *_WORDS))}"
            raise ParamsError(f"{pair!r} cannot be understood", field=SYNTHETIC, remedy=remedy)
        given[key] = value
    numbers = {key: _number(key, given[key]) for key in _NUMBERS if key in given}
    count = numbers.pop("count", None)
    duration_s = numbers.pop("duration", 600.0 if count is None else 1e9)
    config = SyntheticConfig(
        arrivals=process,
        rate=numbers.pop("rate", 1.0),
        duration_s=duration_s,
        count=None if count is None else int(count),
        options=numbers,
    )
    source = given.get("lengths")
    if source is None:
        lengths = independent_lengths(given.get("prompt", "fixed:512"), given.get("output", "fixed:128"))
    elif "prompt" in given or "output" in given:
        problem = "it stands beside prompt or output, which say the same"
        raise ParamsError(problem, field="lengths", remedy="Give one of them")
    elif source.startswith("trace:"):
        lengths = lengths_of(load_trace(source.removeprefix("trace:"), seed))
    else:
        lengths = published_lengths(source)
    return synthetic_trace(config, lengths, seed)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ParamsError(f"{text!r} is no number", field=key, remedy="Give a number") from None
