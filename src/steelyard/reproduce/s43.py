"""S43 Megatron-LM: the analytic training step beside its published throughputs, times and memory.

One efficiency is fitted, to four rows of table 1 (``plan/training.toml``); the other six rows, table 2 and the paper on
sequence parallelism are predicted. Left out until ranks train: equal loss curves, and the bubble measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from steelyard.core.units import GIB
from steelyard.plan.parallel import LayoutSpace, ParallelJob, forecast_layout, plan_parallel
from steelyard.plan.training import Recompute, TrainingLayout
from steelyard.plan.training_catalogue import find_training_cluster, find_training_model
from steelyard.plan.training_memory import activation_bytes
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.tables import beside, read_table

CLAIM = "502 Pflop/s on 3,072 A100, 52 % of peak per GPU; interleaving gains more than 10 %"
CLUSTER = "dgx-a100"
FITTED = ("gpt-1.7b", "gpt-18b", "gpt-145b", "gpt-1t")
INTERLEAVING_BATCHES = (12, 24, 36, 48, 60)
"""Of figure 12: GPT-3 with 175 B weights on 96 GPUs, TP 8, PP 12, microbatch 1, two layers per chunk."""


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S43 and return its table."""
    return stamped(
        system="S43",
        claim=CLAIM,
        setup="analytic step of DGX A100 nodes; one efficiency fitted to four rows of table 1, all else predicted",
        rows=(*table1_rows(), *settings_rows(), *interleaving_rows(), *table2_rows(), *sequence_parallel_rows()),
        command=command_line("S43", options),
    )


def table1_rows() -> Iterator[ReproductionRow]:
    """Yield table 1 beside our prediction."""
    for row in read_table("s43_table1"):
        ours, published = table1_tflops(row), float(row["tflops"])
        told = "fitted" if row["model"] in FITTED else "predicted"
        yield ReproductionRow(
            claim=f"{published:.0f} Tflop/s per GPU",
            setup=f"{row['model']} on {row['gpus']} GPUs, {told}",
            ours=beside(ours, published, "Tflop/s"),
        )


def table1_tflops(row: dict[str, str]) -> float:
    """Return our Tflop/s per GPU for one row of table 1."""
    job = _job(row["model"], int(row["gpus"]), int(row["global_batch"]))
    return forecast_layout(job, table1_layout(row)).tflops_per_gpu(job)


def table1_layout(row: dict[str, str]) -> TrainingLayout:
    """Return the layout of one row of table 1; everything is recomputed, nothing sharded."""
    tp, pp = int(row["tp"]), int(row["pp"])
    return TrainingLayout(
        tp=tp,
        pp=pp,
        dp=int(row["gpus"]) // (tp * pp),
        microbatch=int(row["microbatch"]),
        interleave=int(row["interleave"]),
    )


def settings_rows() -> Iterator[ReproductionRow]:
    """Yield what the planner chooses for table 1's models, given what the authors' framework had then."""
    space = LayoutSpace(recomputes=(Recompute.FULL,), zero_stages=(0,), sequence_parallel=(False,))
    for row in read_table("s43_table1"):
        published = table1_layout(row)
        job = _job(row["model"], int(row["gpus"]), int(row["global_batch"]))
        plan = plan_parallel(job, space)
        degrees = [(one.layout.tp, one.layout.pp) for one in plan.ranked]
        rank = degrees.index((published.tp, published.pp)) + 1
        slower = forecast_layout(job, published).step.seconds / plan.best.step.seconds - 1
        yield ReproductionRow(
            claim=f"TP {published.tp}, PP {published.pp}",
            setup=f"{row['model']}: fastest of {plan.num_tried} layouts, {plan.num_too_large} of them too large",
            ours=f"TP {degrees[0][0]}, PP {degrees[0][1]}; the paper's is number {rank}, {100 * slower:.1f} % slower",
        )


def interleaving_rows() -> Iterator[ReproductionRow]:
    """Yield what interleaving gains, by batch size."""
    for batch in INTERLEAVING_BATCHES:
        gain = interleaving_gain(batch)
        yield ReproductionRow(
            claim="more than 10 % at small batches" if batch == INTERLEAVING_BATCHES[0] else "–",
            setup=f"interleaving, gpt-175b on 96 GPUs, batch {batch}",
            ours=f"{100 * (gain - 1):+.1f} %",
            ratio=gain,
        )


def interleaving_gain(batch: int) -> float:
    """Return the throughput with four chunks per stage over that with one."""
    job = _job("gpt-175b", 96, batch)
    plain = TrainingLayout(tp=8, pp=12)
    one, four = (forecast_layout(job, replace(plain, interleave=chunks)).step.seconds for chunks in (1, 4))
    return one / four


def table2_rows() -> Iterator[ReproductionRow]:
    """Yield table 2, ZeRO stage 3 alone beside tensor and pipeline parallelism."""
    for row in read_table("s43_table2"):
        published, ours = float(row["tflops"]), table2_tflops(row)
        yield ReproductionRow(
            claim=f"{published:.0f} Tflop/s per GPU",
            setup=f"{row['model']}, {row['scheme']} on {row['gpus']} GPUs",
            ours=beside(ours, published, "Tflop/s"),
        )


def table2_tflops(row: dict[str, str]) -> float:
    """Return our Tflop/s per GPU for one row of table 2."""
    gpus, degree, microbatch = (int(row[name]) for name in ("gpus", "model_parallel", "microbatch"))
    job = _job(row["model"], gpus, int(row["global_batch"]))
    if row["scheme"] == "ZeRO-3":
        layout = TrainingLayout(dp=gpus, microbatch=microbatch, zero_stage=3)
    else:
        layout = TrainingLayout(tp=8, pp=degree // 8, dp=gpus // degree, microbatch=microbatch)
    return forecast_layout(job, layout).tflops_per_gpu(job)


def sequence_parallel_rows() -> Iterator[ReproductionRow]:
    """Yield step times and activation memory of the paper on sequence parallelism and selective recomputation."""
    for row in read_table("s43_seqpar"):
        for recompute in (Recompute.FULL, Recompute.SELECTIVE):
            published, ours = float(row[f"{recompute.value}_s"]), sequence_parallel_s(row, recompute)
            yield ReproductionRow(
                claim=f"{published:.4g} s per step",
                setup=f"{row['model']}, {recompute.value} recomputation",
                ours=beside(ours, published, "s"),
            )
        for recompute in (Recompute.NONE, Recompute.SELECTIVE):
            published, ours = float(row[f"{recompute.value}_gib"]), sequence_parallel_gib(row, recompute)
            yield ReproductionRow(
                claim=f"{published:.4g} GiB of activations",
                setup=f"{row['model']}, {recompute.value} recomputation",
                ours=beside(ours, published, "GiB"),
            )


def sequence_parallel_s(row: dict[str, str], recompute: Recompute) -> float:
    """Return our seconds per step; selective recomputation comes with sequence parallelism."""
    layout = sequence_parallel_layout(row, recompute)
    job = _job(row["model"], layout.num_gpus, int(row["global_batch"]))
    return forecast_layout(job, layout).step.seconds


def sequence_parallel_gib(row: dict[str, str], recompute: Recompute) -> float:
    """Return our activations of the first stage in GiB."""
    model, layout = find_training_model(row["model"]), sequence_parallel_layout(row, recompute)
    microbatches = layout.num_microbatches(int(row["global_batch"]))
    return activation_bytes(model, layout, num_microbatches=microbatches) / GIB


def sequence_parallel_layout(row: dict[str, str], recompute: Recompute) -> TrainingLayout:
    """Return the layout of one model of arXiv:2205.05198."""
    return TrainingLayout(
        tp=int(row["tp"]),
        pp=int(row["pp"]),
        microbatch=int(row["microbatch"]),
        interleave=int(row["interleave"]),
        recompute=recompute,
        sequence_parallel=recompute is Recompute.SELECTIVE,
    )


def _job(model: str, num_gpus: int, global_batch: int) -> ParallelJob:
    cluster, efficiency = find_training_cluster(CLUSTER)
    return ParallelJob(
        model=find_training_model(model),
        cluster=cluster,
        efficiency=efficiency,
        num_gpus=num_gpus,
        global_batch=global_batch,
    )
