"""What all planners print: a table and the reasons, or JSON; and the plan as a TOML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions
from steelyard.cli.output import print_json, write_error_line, write_line
from steelyard.core.toml_text import toml_text
from steelyard.reproduce.files import write_text_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Where a plan goes."""

    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File that the plan is written to, as TOML.", show_default=False)
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedPlan:
    """A plan in its three forms.

    Attributes:
        text: tables for people.
        reasons: why it is the best, in sentences.
        fields: the plan for machines; what is not known is left out.
    """

    text: str
    reasons: Sequence[str]
    fields: Mapping[str, Any]


def print_plan(plan: PrintedPlan, where: PlanOptions, output: OutputOptions) -> None:
    """Print the plan and write its file, if one was asked for."""
    if where.out is not None:
        write_text_atomically(where.out, toml_text(plan.fields))
        write_error_line(f"written to {where.out}")
    if output.json:
        print_json({**plan.fields, "reasons": list(plan.reasons)})
    else:
        write_line("\n".join([plan.text, "", *(f"• {reason}" for reason in plan.reasons)]))
