"""Published tables that are shipped as ``data/*.csv``; lines that begin with ``#`` say where they are from."""

from __future__ import annotations

import csv
from importlib import resources


def read_table(name: str) -> tuple[dict[str, str], ...]:
    """Return the rows of ``data/<name>.csv``, each as column → text."""
    text = resources.files("steelyard.reproduce").joinpath("data", f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def beside(ours: float, published: float, unit: str) -> str:
    """Return our number with its deviation from the published one, e.g. ``133 Tflop/s (−6.2 %)``."""
    sign = "−" if ours < published else "+"
    return f"{ours:.3g} {unit} ({sign}{100 * abs(ours / published - 1):.1f} %)"
