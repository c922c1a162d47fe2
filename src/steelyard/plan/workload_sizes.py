"""How large a workload's requests are: :func:`request_sizes` of a known trace or of a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from steelyard.core.errors import InputError
from steelyard.core.names import suggestion
from steelyard.plan.fleet import SizeBucket

_COLUMNS = ("prompt_tokens", "answer_tokens", "requests")


def known_workloads() -> tuple[str, ...]:
    """Return the names of the workloads that are shipped."""
    return tuple(dict.fromkeys(row["workload"] for row in _rows(_shipped())))


def request_sizes(workload: str, rate_per_s: float) -> tuple[SizeBucket, ...]:
    """Return the buckets of a workload, their rates adding up to ``rate_per_s``.

    Args:
        workload: a known name, or a CSV file with columns ``prompt_tokens``, ``answer_tokens`` and ``requests``.
        rate_per_s: of all requests.

    Raises:
        InputError: if there is no such workload or file, or a row is no size.
    """
    known, path = known_workloads(), Path(workload)
    if workload in known:
        rows = [row for row in _rows(_shipped()) if row["workload"] == workload]
    elif path.is_file():
        rows = _rows(path.read_text(encoding="utf-8-sig").splitlines())
    else:
        raise InputError(f"{workload!r} is no file", field="workload", remedy=suggestion(workload, known))
    sizes = [_size(row, number) for number, row in enumerate(rows, start=1)]
    total = sum(requests for _, _, requests in sizes)
    if not total > 0:
        raise InputError(f"{workload!r} has no request", field="workload", remedy=f"Give {', '.join(_COLUMNS)}")
    return tuple(
        SizeBucket(prompt_tokens=prompt, answer_tokens=answer, rate_per_s=rate_per_s * requests / total)
        for prompt, answer, requests in sizes
    )


def _size(row: dict[str, str], number: int) -> tuple[int, int, float]:
    try:
        prompt, answer, requests = int(row["prompt_tokens"]), int(row["answer_tokens"]), float(row["requests"])
    except (KeyError, TypeError, ValueError):
        prompt, answer, requests = 0, 0, -1.0
    if prompt < 1 or answer < 1 or not 0 <= requests < float("inf"):
        raise InputError(f"row {number} is no size", field="workload", remedy=f"Give numbers: {', '.join(_COLUMNS)}")
    return prompt, answer, requests


def _rows(lines: Iterable[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _shipped() -> list[str]:
    return resources.files("steelyard.plan").joinpath("request_sizes.csv").read_text(encoding="utf-8").splitlines()
