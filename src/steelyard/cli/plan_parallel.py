"""``steelyard plan parallel``: how to cut up a training run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, check_at_least, examples, takes_groups
from steelyard.cli.output import format_table
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.errors import ParamsError
from steelyard.core.units import format_bytes, format_seconds
from steelyard.plan.parallel import LayoutForecast, LayoutSpace, ParallelJob, ParallelPlan, plan_parallel, reasons
from steelyard.plan.training import Recompute, TrainingModel
from steelyard.plan.training_catalogue import find_training_cluster, find_training_model, training_models

EXAMPLES = examples(
    "steelyard plan parallel gpt-1t --cluster dgx-a100 --gpus 3072 --batch 3072",
    "steelyard plan parallel --layers 48 --hidden 6144 --heads 48 --cluster frontier --gpus 64 --batch 256",
    "steelyard plan parallel gpt-175b --gpus 1024 --batch 1536 --tp 8 --recompute full --out plan.toml",
)

Model = Annotated[
    str | None, typer.Argument(metavar="MODEL", help=", ".join(training_models()) + ".", show_default=False)
]
Given = Annotated[int | None, typer.Option(show_default="the planner's")]


@takes_groups
def parallel(
    *,
    model: Model = None,
    cluster: Annotated[str, typer.Option(help="dgx-a100, dgx-h100 or frontier.")] = "dgx-a100",
    gpus: Annotated[int, typer.Option(help="Devices to use, all of them.")] = 64,
    batch: Annotated[int, typer.Option(help="Sequences per optimiser step.")] = 512,
    layers: Annotated[int | None, typer.Option(help="Of a model that has no name.", show_default=False)] = None,
    hidden: Annotated[int | None, typer.Option(help="Its hidden size.", show_default=False)] = None,
    heads: Annotated[int | None, typer.Option(help="Its attention heads.", show_default=False)] = None,
    sequence: Annotated[int, typer.Option(help="Tokens per sequence.")] = 2048,
    vocabulary: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 51200,
    tp: Given = None,
    pp: Given = None,
    microbatch: Given = None,
    interleave: Given = None,
    zero: Annotated[int | None, typer.Option(help="0, 1, 2 or 3.", show_default="the planner's")] = None,
    recompute: Annotated[str, typer.Option(help="auto, none, selective or full.")] = "auto",
    flash_attention: Annotated[
        bool, typer.Option("--flash-attention/--no-flash-attention", help="Whether the framework has it.")
    ] = True,
    memory_share: Annotated[float, typer.Option(help="Of a device's memory that the plan may fill.")] = 0.92,
    top: Annotated[int, typer.Option(help="Layouts to list.")] = 5,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Cut up a training run: tensor, pipeline and data degree, microbatch, interleaving, ZeRO, recomputation.

    Every layout that divides evenly is judged by an analytic step, and those that fit are ranked by their seconds. It
    reproduces Megatron-LM's published throughputs within 7 % (steelyard reproduce S43).
    """
    check_at_least("top", top, 1)
    machine, efficiency = find_training_cluster(cluster)
    job = ParallelJob(
        model=_model(model, layers, hidden, heads, sequence, vocabulary),
        cluster=machine,
        efficiency=efficiency,
        num_gpus=gpus,
        global_batch=batch,
        memory_share=memory_share,
    )
    given = {"tp": tp, "pp": pp, "microbatch": microbatch, "interleave": interleave, "zero_stage": zero}
    space = LayoutSpace(
        recomputes=_recomputes(recompute),
        zero_stages=(0, 1, 2, 3),
        flash_attention=flash_attention,
        fixed=tuple((name, value) for name, value in given.items() if value is not None),
    )
    plan = plan_parallel(job, space)
    print_plan(PrintedPlan(text=_text(plan, top), reasons=reasons(plan), fields=_fields(plan)), where, output)


def _model(
    name: str | None, layers: int | None, hidden: int | None, heads: int | None, sequence: int, vocabulary: int
) -> TrainingModel:
    if name is not None:
        found = find_training_model(name)
        shape = found.num_layers, found.hidden_size, found.num_heads
    elif layers is None or hidden is None or heads is None:
        remedy = "Give a model's name, or --layers, --hidden and --heads"
        raise ParamsError("none was given", field="model", remedy=remedy)
    else:
        name, shape = f"{layers} layers of {hidden}", (layers, hidden, heads)
    return TrainingModel(
        name=name,
        num_layers=shape[0],
        hidden_size=shape[1],
        num_heads=shape[2],
        sequence_tokens=sequence,
        vocab_size=vocabulary,
    )


def _recomputes(name: str) -> tuple[Recompute, ...]:
    if name == "auto":
        return tuple(Recompute)
    known = {one.value: one for one in Recompute}
    if name not in known:
        remedy = f"Give auto, {', '.join(known)}"
        raise ParamsError(f"{name!r} is none of them", field="recompute", remedy=remedy)
    return (known[name],)


_HEADERS = (
    "TP", "PP", "DP", "MICROBATCH", "CHUNKS", "ZERO", "RECOMPUTE", "SEQUENCE", "STEP", "TFLOP/S", "MFU", "BUBBLE",
    "MEMORY",
)  # fmt: skip


def _text(plan: ParallelPlan, top: int) -> str:
    job = plan.job
    head = (
        f"{job.model.name}: {job.model.num_params / 1e9:.1f} G weights on {job.num_gpus} devices of "
        f"{job.cluster.name}, {job.global_batch} sequences of {job.model.sequence_tokens} tokens per step"
    )
    return "\n\n".join([head, format_table(_HEADERS, [_row(job, one) for one in plan.ranked[:top]])])


def _row(job: ParallelJob, one: LayoutForecast) -> tuple[str, ...]:
    layout = one.layout
    degrees = (layout.tp, layout.pp, layout.dp, layout.microbatch, layout.interleave, layout.zero_stage)
    return (
        *map(str, degrees),
        layout.recompute.value,
        "split" if layout.sequence_parallel else "whole",
        format_seconds(one.step.seconds),
        f"{one.tflops_per_gpu(job):.0f}",
        f"{100 * one.model_flop_share(job):.0f} %",
        f"{100 * one.step.bubble_s / one.step.seconds:.1f} %",
        format_bytes(one.memory.total),
    )


def _fields(plan: ParallelPlan) -> dict[str, Any]:
    job = plan.job
    return {
        "kind": "parallel",
        "cluster": job.cluster.name,
        "num_gpus": job.num_gpus,
        "global_batch": job.global_batch,
        "model": {key: value for key, value in asdict(job.model).items() if value is not None},
        "layouts": [_layout_fields(job, one) for one in plan.ranked],
    }


def _layout_fields(job: ParallelJob, one: LayoutForecast) -> dict[str, Any]:
    return {
        **asdict(one.layout),
        "recompute": one.layout.recompute.value,
        "step_s": one.step.seconds,
        "tflops_per_gpu": one.tflops_per_gpu(job),
        "mfu": one.model_flop_share(job),
        "memory_bytes": one.memory.total,
        "seconds": asdict(one.step),
        "bytes": asdict(one.memory),
    }
