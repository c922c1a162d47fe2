"""``steelyard fit``: does a model fit this machine, from the headers of its files alone."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, format_table, print_json, write_line
from steelyard.core.units import format_bytes
from steelyard.hardware.this_machine import this_machine
from steelyard.models.catalogue import default_model
from steelyard.models.load import describe_model
from steelyard.models.resolve import ResolvedModel, open_weights, resolve_model
from steelyard.plan.fit import FitLoad, FitReport, FormatFit
from steelyard.plan.fit import fit as plan_fit
from steelyard.plan.footprint import ModelFootprint, footprint_from_config

app = new_app()

_DEFAULT_CONTEXT = 4096

Model = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="As for --model of the other commands.", show_default="the default model"),
]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens of prompt and answer together.", show_default="4096, or the model's if shorter"),
]
Batch = Annotated[int, typer.Option(help="Sequences of that length at once.")]
DeviceName = Annotated[str, typer.Option("--device", help="cpu or cuda:N.")]


@app.command(epilog=examples("steelyard fit", "steelyard fit ./model.gguf --context 32768", "steelyard fit --batch 64"))
@takes_groups
def fit(
    *,
    model: Model = None,
    context: Context = None,
    batch: Batch = 1,
    device: DeviceName = "cpu",
    output: OutputOptions,
) -> None:
    """Say whether a model fits this machine, before loading it.

    Only the headers of the model's files are read. For each number format the answer lists what the engine would
    allocate, and the longest context and the largest batch that fit in the memory that is free now.
    """
    configure_logging()
    footprint = model_footprint(resolve_model(model if model is not None else default_model()))
    length = context if context is not None else min(_DEFAULT_CONTEXT, footprint.max_context)
    report = plan_fit(footprint, this_machine(), FitLoad(context=length, batch=batch), device=device)
    if output.json:
        print_json(_fields(report, footprint))
    else:
        write_line(_text(report, footprint))


def model_footprint(resolved: ResolvedModel) -> ModelFootprint:
    """Return a model's sizes from its files' headers.

    Raises:
        ModelError: if its description is unsound or not supported.
    """
    with closing(open_weights(resolved)) as source:
        return footprint_from_config(describe_model(resolved, source), source, name=resolved.name)


def _fields(report: FitReport, footprint: ModelFootprint) -> dict[str, Any]:
    return {
        "model": report.model,
        "num_params": footprint.num_params,
        "stored_bytes": footprint.stored_bytes,
        "device": report.device,
        "available_bytes": report.available_bytes,
        "context": report.load.context,
        "batch": report.load.batch,
        "formats": [_format_fields(one) for one in report.formats],
    }


def _format_fields(one: FormatFit) -> dict[str, Any]:
    return {**asdict(one), "verdict": one.verdict.value, "peak_bytes": one.need.peak}


def _text(report: FitReport, footprint: ModelFootprint) -> str:
    stored, available = format_bytes(footprint.stored_bytes), format_bytes(report.available_bytes)
    head = (
        f"{report.model}: {footprint.num_params / 1e6:.1f} M parameters, {stored} stored\n"
        f"context {report.load.context}, batch {report.load.batch}, on {report.device} with {available} free"
    )
    headers = ("FORMAT", "VERDICT", "PEAK", "WEIGHTS", "KV CACHE", "WORKSPACE", "MAX CONTEXT", "MAX BATCH")
    remarks = [f"{one.name}: {text}." for one in report.formats for text in (one.remedy, one.note) if text]
    return "\n\n".join([head, format_table(headers, [_row(one) for one in report.formats]), *remarks])


def _row(one: FormatFit) -> tuple[str, ...]:
    sizes = (one.need.peak, one.need.weights, one.need.kv_cache, one.need.workspace)
    return (one.name, one.verdict.value, *map(format_bytes, sizes), str(one.max_context), str(one.max_batch))
