"""``steelyard plan nano``: one batch cut so that computing, memory and network overlap."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, check_at_least, examples, takes_groups
from steelyard.cli.output import format_table
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.units import format_seconds
from steelyard.plan.nano import NanoJob, NanoPlan, Operator, operators, search
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model, serving_devices, serving_models

EXAMPLES = examples(
    "steelyard plan nano llama-2-70b --device a100-80gb --devices 8",
    "steelyard plan nano llama-3-8b --devices 1 --batch 1024 --prompt 1024 --json",
)


@takes_groups
def nano(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=", ".join(serving_models()) + ".")] = "llama-2-70b",
    device: Annotated[str, typer.Option(help=", ".join(serving_devices()) + ".")] = "a100-80gb",
    devices: Annotated[int, typer.Option(help="Devices of the tensor-parallel group.")] = 8,
    batch: Annotated[int, typer.Option(help="Tokens per step, prefill and decode together.")] = 2048,
    prompt: Annotated[int, typer.Option(help="Tokens prefilled per request.")] = 512,
    answer: Annotated[int, typer.Option(help="Tokens decoded per request.")] = 512,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Search the nano-batches that overlap computing, memory and network best, beside the sequential step."""
    for name, number in (("devices", devices), ("batch", batch), ("prompt", prompt), ("answer", answer)):
        check_at_least(name, number, 1)
    job = NanoJob(
        model=find_serving_model(model),
        device=find_serving_device(device),
        num_devices=devices,
        batch_tokens=batch,
        prompt_tokens=prompt,
        answer_tokens=answer,
    )
    plan, layer = search(job), operators(job, batch)
    text = "\n\n".join(
        [
            f"{model} on {devices} × {device}, {batch} tokens a step, one layer of the whole batch",
            format_table(("OPERATOR", "COMPUTE", "MEMORY", "NETWORK", "BOUND"), [_row(one) for one in layer]),
            "Second layer of the pipeline",
            format_table(("NANO-BATCH", "OPERATOR", "FROM", "TO"), _second_layer(plan, layer)),
        ]
    )
    print_plan(PrintedPlan(text=text, reasons=_reasons(job, plan), fields=_fields(job, plan, model)), where, output)


def _row(one: Operator) -> tuple[str, ...]:
    return (one.name, *(format_seconds(s) for s in (one.compute_s, one.memory_s, one.network_s)), one.bound.value)


def _second_layer(plan: NanoPlan, layer: tuple[Operator, ...]) -> list[tuple[str, ...]]:
    spans = sorted((span for span in plan.spans if span.layer == 1), key=lambda span: span.start_s)
    return [
        (str(one.nano + 1), layer[one.operator].name, format_seconds(one.start_s), format_seconds(one.end_s))
        for one in spans
    ]


def _reasons(job: NanoJob, plan: NanoPlan) -> tuple[str, ...]:
    chosen = plan.pipeline
    how = "Nothing that was tried beats one operator after another."
    if chosen is not None:
        how = (
            f"{chosen.num_nano} nano-batches, {chosen.order.value} first; beside others memory takes "
            f"{chosen.memory_share:.0%} and network {chosen.network_share:.0%} of the device."
        )
    return (
        how,
        f"{job.tokens_per_s(plan.step_s):.0f} tokens/s and device, {plan.sequential_s / plan.step_s:.2f} times the "
        f"sequential {job.tokens_per_s(plan.sequential_s):.0f}, {job.optimal_s / plan.step_s:.0%} of the optimum "
        f"{job.tokens_per_s(job.optimal_s):.0f}.",
    )


def _fields(job: NanoJob, plan: NanoPlan, model: str) -> dict[str, Any]:
    chosen = plan.pipeline
    return {
        "kind": "nano",
        "model": model,
        "device": job.device.name,
        "num_devices": job.num_devices,
        "batch_tokens": job.batch_tokens,
        **({} if chosen is None else {"pipeline": {**asdict(chosen), "order": chosen.order.value}}),
        "step_s": plan.step_s,
        "sequential_s": plan.sequential_s,
        "optimal_s": job.optimal_s,
        "spans": [{**asdict(span), "bound": span.bound.value} for span in plan.spans],
    }
