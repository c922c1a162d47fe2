"""``steelyard fit``: does a model fit this machine, from the headers of its files alone."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, format_table, print_json, write_line
from steelyard.cli.profiles import KnownMachine, known_machine
from steelyard.core.errors import InputError
from steelyard.core.units import format_bytes, format_seconds
from steelyard.cost.roofline import ModelShape
from steelyard.engine.build import DTYPES
from steelyard.engine.prediction import model_shape, num_weights, quantised_shape
from steelyard.hardware.this_machine import this_machine
from steelyard.kernels.native import native_available
from steelyard.kernels.packed_matrix import PACKED_FROM
from steelyard.models.catalogue import default_model
from steelyard.models.config import ModelConfig
from steelyard.models.load import describe_model
from steelyard.models.resolve import ResolvedModel, open_weights, resolve_model
from steelyard.plan.fit import QUANTISED, FitLoad, FitReport, FormatFit
from steelyard.plan.fit import fit as plan_fit
from steelyard.plan.footprint import ModelFootprint, footprint_from_config
from steelyard.plan.speed import SpeedForecast, forecast

app = new_app()

_DEFAULT_CONTEXT = 4096
_PROMPT_TOKENS = 512
_OUTPUT_TOKENS = 128

Speeds = dict[str, SpeedForecast | None]

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
    allocate, the longest context and the largest batch that fit in the memory that is free now, and how fast one user
    should be served, from this machine's probe.
    """
    configure_logging()
    config, footprint = described_model(resolve_model(model if model is not None else default_model()))
    length = context if context is not None else min(_DEFAULT_CONTEXT, footprint.max_context)
    keeps_blocks = native_available() and any(part.name in PACKED_FROM for part in footprint.stored)
    load = FitLoad(context=length, batch=batch)
    report = plan_fit(footprint, this_machine(), load, device=device, keeps_blocks=keeps_blocks)
    known = known_machine()
    bytes_per_weight = footprint.stored_bytes / num_weights(config)
    shapes = {one.name: shape_held_as(config, one.held_as, bytes_per_weight) for one in report.formats}
    speeds = {name: expected_speed(config, shape, known, device) for name, shape in shapes.items()}
    if output.json:
        print_json(_fields(report, footprint, speeds, known))
    else:
        write_line(_text(report, footprint, speeds, known))


def described_model(resolved: ResolvedModel) -> tuple[ModelConfig, ModelFootprint]:
    """Return a model's description and its sizes, from its files' headers.

    Raises:
        ModelError: if its description is unsound or not supported.
    """
    with closing(open_weights(resolved)) as source:
        config = describe_model(resolved, source)
        return config, footprint_from_config(config, source, name=resolved.name)


def shape_held_as(config: ModelConfig, held_as: str, bytes_per_weight: float) -> ModelShape:
    """Return what decides the cost of a model whose weights are held in a dtype, or quantised."""
    if held_as == QUANTISED:
        return quantised_shape(config, bytes_per_weight, kv_bytes=2)
    return model_shape(config, DTYPES[held_as])


def expected_speed(config: ModelConfig, shape: ModelShape, known: KnownMachine, device: str) -> SpeedForecast | None:
    """Return how fast one prompt of 512 tokens should be answered; ``None`` if the device's rates are not known."""
    profile = known.profile
    calibration = profile.calibration if device == "cpu" else None
    prompt_tokens = min(_PROMPT_TOKENS, config.max_position_embeddings)
    try:
        return forecast(
            shape,
            profile.machine.device(device),
            calibration,
            prompt_tokens=prompt_tokens,
            output_tokens=_OUTPUT_TOKENS,
        )
    except InputError:
        return None


def _fields(report: FitReport, footprint: ModelFootprint, speeds: Speeds, known: KnownMachine) -> dict[str, Any]:
    return {
        "model": report.model,
        "num_params": footprint.num_params,
        "stored_bytes": footprint.stored_bytes,
        "device": report.device,
        "available_bytes": report.available_bytes,
        "context": report.load.context,
        "batch": report.load.batch,
        "formats": [_format_fields(one, speeds[one.name]) for one in report.formats],
        "predicted_from": known.origin,
    }


def _format_fields(one: FormatFit, speed: SpeedForecast | None) -> dict[str, Any]:
    told = {
        "prompt_tokens": speed.prompt_tokens if speed else None,
        "ttft_s": speed.prefill.predicted_s if speed else None,
        "ttft_limit_s": speed.prefill.limit_s if speed else None,
        "decode_tokens_per_s": speed.decode_tokens_per_s if speed else None,
        "decode_limit_per_s": speed.decode_limit_per_s if speed else None,
    }
    return {**asdict(one), "verdict": one.verdict.value, "peak_bytes": one.need.peak, "speed": told}


def _text(report: FitReport, footprint: ModelFootprint, speeds: Speeds, known: KnownMachine) -> str:
    stored, available = format_bytes(footprint.stored_bytes), format_bytes(report.available_bytes)
    head = (
        f"{report.model}: {footprint.num_params / 1e6:.1f} M parameters, {stored} stored\n"
        f"context {report.load.context}, batch {report.load.batch}, on {report.device} with {available} free"
    )
    headers = ("FORMAT", "VERDICT", "PEAK", "WEIGHTS", "KV CACHE", "WORKSPACE", "MAX CONTEXT", "MAX BATCH")
    table = format_table(headers, [_row(one) for one in report.formats])
    speed = format_table(_SPEED_HEADERS, [_speed_row(name, speed) for name, speed in speeds.items() if speed])
    source = f"Predicted for {_PROMPT_TOKENS} prompt tokens, from the {known.origin}; the limit is the roofline's."
    remarks = [f"{one.name}: {text}." for one in report.formats for text in (one.remedy, one.note) if text]
    return "\n\n".join([head, table, *([speed, source] if any(speeds.values()) else []), *remarks])


def _row(one: FormatFit) -> tuple[str, ...]:
    sizes = (one.need.peak, one.need.weights, one.need.kv_cache, one.need.workspace)
    return (one.name, one.verdict.value, *map(format_bytes, sizes), str(one.max_context), str(one.max_batch))


_SPEED_HEADERS = ("FORMAT", "TTFT", "LIMIT", "TOKENS/S", "LIMIT")


def _speed_row(name: str, speed: SpeedForecast) -> tuple[str, ...]:
    ttft_s, rate = speed.prefill.predicted_s, speed.decode_tokens_per_s
    return (
        name,
        "–" if ttft_s is None else format_seconds(ttft_s),
        format_seconds(speed.prefill.limit_s),
        "–" if rate is None else f"{rate:.1f}",
        f"{speed.decode_limit_per_s:.1f}",
    )
