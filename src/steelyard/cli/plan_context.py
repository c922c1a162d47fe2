"""``steelyard plan context``: what long contexts cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, takes_groups
from steelyard.cli.output import format_table, write_error_line
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.units import format_bytes, format_seconds
from steelyard.plan.figure import Panel, line_panels
from steelyard.plan.long_context import ContextCosts, ContextJob, context_costs, context_reasons
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model, serving_devices, serving_models
from steelyard.reproduce.files import write_text_atomically

EXAMPLES = examples(
    "steelyard plan context yi-34b-200k --device a100-80gb",
    "steelyard plan context llama-3-70b --device h100 --devices 4 --context 4000 --context 128000",
    "steelyard plan context yi-34b-200k --figure context.svg --out plan.toml",
)

_LENGTHS = (4_000, 10_000, 25_000, 50_000, 100_000, 200_000)


@takes_groups
def context(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=", ".join(serving_models()) + ".")] = "yi-34b-200k",
    device: Annotated[str, typer.Option(help=", ".join(serving_devices()) + ".")] = "a100-80gb",
    devices: Annotated[int, typer.Option(help="How many of them share weights and cache.")] = 1,
    context: Annotated[
        list[int] | None, typer.Option(help="Tokens; give it once per length.", show_default="4000 … 200000")
    ] = None,
    answer: Annotated[int, typer.Option(help="Tokens decoded per answer.")] = 250,
    figure: Annotated[
        Path | None, typer.Option(help="File for a figure of the four costs, SVG.", show_default=False)
    ] = None,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Show what long contexts cost: users at once, prefill, decoding and switching, all from the KV cache's size."""
    job = ContextJob(
        model=find_serving_model(model),
        device=find_serving_device(device),
        num_devices=devices,
        answer_tokens=answer,
    )
    costs = tuple(context_costs(job, length) for length in sorted(set(context or _LENGTHS)))
    title = f"{model} on {devices} × {device}"
    if figure is not None:
        write_text_atomically(figure, line_panels(_panels(costs), title=title, x_label="context, tokens"))
        write_error_line(f"written to {figure}")
    text = "\n\n".join([f"{title}, answers of {answer} tokens", format_table(_HEADERS, [_row(one) for one in costs])])
    fields = _fields(job, costs, model)
    print_plan(PrintedPlan(text=text, reasons=context_reasons(job, costs), fields=fields), where, output)


_HEADERS = ("CONTEXT", "KV CACHE", "USERS AT ONCE", "PREFILL", "OF IT ATTENTION", "DECODE", "SWITCH")


def _row(one: ContextCosts) -> tuple[str, ...]:
    return (
        str(one.context_tokens),
        format_bytes(one.kv_bytes),
        str(one.concurrency),
        format_seconds(one.prefill_s),
        f"{100 * one.prefill_attention_s / one.prefill_s:.0f} %",
        format_seconds(one.decode_s),
        format_seconds(one.switch_s),
    )


def _panels(costs: tuple[ContextCosts, ...]) -> tuple[Panel, ...]:
    def points(name: str) -> tuple[tuple[float, float], ...]:
        return tuple((float(one.context_tokens), float(getattr(one, name))) for one in costs)

    return (
        Panel("users at once", points("concurrency")),
        Panel("prefill, s", points("prefill_s")),
        Panel("decode, s", points("decode_s")),
        Panel("switch, s", points("switch_s")),
    )


def _fields(job: ContextJob, costs: tuple[ContextCosts, ...], model: str) -> dict[str, Any]:
    return {
        "kind": "context",
        "model": model,
        "device": job.device.name,
        "num_devices": job.num_devices,
        "answer_tokens": job.answer_tokens,
        "room_bytes": job.room_bytes,
        "longest_context": job.longest_context,
        "costs": [asdict(one) for one in costs],
    }
