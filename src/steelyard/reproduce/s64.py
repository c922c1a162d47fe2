"""S64, training on Frontier: three models on MI250X, their published shares of the peak and best settings.

What this compares with is the abstract of arXiv:2312.12705; of the settings, TP and PP of the two larger models and the
batch of 9,600 sequences for 1 T are in the paper, the batch of the 175 B model is taken to grow likewise, and the
22 B model's setting is not known to us: the planner's own is shown for two nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.plan.parallel import LayoutForecast, LayoutSpace, ParallelJob, forecast_layout, plan_parallel
from steelyard.plan.training import Recompute, TrainingLayout
from steelyard.plan.training_catalogue import find_training_cluster, find_training_model
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.tables import beside

CLAIM = "38.4 %, 36.1 % and 32.0 % of peak for 22 B, 175 B and 1 T weights; 100 % weak scaling, 89 % and 87 % strong"
SPACE = LayoutSpace(
    recomputes=(Recompute.FULL,), zero_stages=(1,), sequence_parallel=(False,), max_interleave=1, flash_attention=True
)
"""What the authors' framework could do: Megatron-DeepSpeed with ZeRO stage 1 and flash attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One published run.

    Attributes:
        percent: of the peak of all devices.
        degrees: tensor and pipeline degree that were best; ``None`` where we do not know them.
        replica_batch: sequences per data-parallel replica of the published degrees.
    """

    model: str
    num_gpus: int
    global_batch: int
    percent: float
    degrees: tuple[int, int] | None


STUDIES = (
    Study(model="frontier-22b", num_gpus=16, global_batch=64, percent=38.38, degrees=None),
    Study(model="gpt-175b", num_gpus=1024, global_batch=10240, percent=36.14, degrees=(4, 16)),
    Study(model="frontier-1t", num_gpus=3072, global_batch=9600, percent=31.96, degrees=(8, 64)),
)


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S64 and return its table."""
    return stamped(
        system="S64",
        claim=CLAIM,
        setup="analytic step of Frontier nodes (8 GCDs each); one efficiency fitted to the three shares together",
        rows=(*share_rows(), *settings_rows(), *scaling_rows()),
        command=command_line("S64", options),
    )


def share_rows() -> Iterator[ReproductionRow]:
    """Yield the three shares of the peak."""
    for study in STUDIES:
        ours = percent_of_peak(study)
        yield ReproductionRow(
            claim=f"{study.percent:.1f} % of peak",
            setup=f"{study.model} on {study.num_gpus} GCDs, " + _told(study),
            ours=beside(ours, study.percent, "% of peak"),
        )


def percent_of_peak(study: Study) -> float:
    """Return our share of the peak in percent, at the published degrees where they are known."""
    job = job_of(study)
    return 100 * published_forecast(study).tflops_per_gpu(job) * 1e12 / job.cluster.flop_per_s


def published_forecast(study: Study) -> LayoutForecast:
    """Return the forecast of the published layout; of the planner's own where none is known."""
    job = job_of(study)
    if study.degrees is None:
        return plan_parallel(job, SPACE).best
    tp, pp = study.degrees
    dp = study.num_gpus // (tp * pp)
    return forecast_layout(job, TrainingLayout(tp=tp, pp=pp, dp=dp, zero_stage=1, flash_attention=True))


def settings_rows() -> Iterator[ReproductionRow]:
    """Yield where the published degrees come among all layouts that fit."""
    for study in STUDIES:
        if study.degrees is None:
            continue
        plan = plan_parallel(job_of(study), SPACE)
        degrees = [(one.layout.tp, one.layout.pp) for one in plan.ranked]
        slower = published_forecast(study).step.seconds / plan.ranked[0].step.seconds - 1
        yield ReproductionRow(
            claim=f"TP {study.degrees[0]}, PP {study.degrees[1]} was best",
            setup=f"{study.model}: {plan.num_tried} layouts, {plan.num_too_large} of them too large",
            ours=f"TP {degrees[0][0]}, PP {degrees[0][1]}; the paper's is number {degrees.index(study.degrees) + 1} of "
            f"{len(degrees)}, {100 * slower:.1f} % slower",
        )


def scaling_rows() -> Iterator[ReproductionRow]:
    """Yield weak and strong scaling of the larger models from an eighth, or a sixth, of their devices."""
    for study, weak, strong, parts in ((STUDIES[1], 100, 89, 8), (STUDIES[2], 100, 87, 6)):
        for name, claim, batch in (("weak", weak, study.global_batch // parts), ("strong", strong, study.global_batch)):
            ours = 100 * scaling(study, parts, few_batch=batch, many_batch=study.global_batch)
            yield ReproductionRow(
                claim=f"{claim} % {name} scaling",
                setup=f"{study.model}, {study.num_gpus // parts} to {study.num_gpus} GCDs",
                ours=beside(ours, claim, "%"),
            )


def scaling(study: Study, parts: int, *, few_batch: int, many_batch: int) -> float:
    """Return throughput per device on all devices over that on one of ``parts``, at the published degrees."""
    few = job_of(study, num_gpus=study.num_gpus // parts, global_batch=few_batch)
    many = job_of(study, global_batch=many_batch)
    rates = [forecast_layout(job, _layout(study, job.num_gpus)).tflops_per_gpu(job) for job in (few, many)]
    return rates[1] / rates[0]


def job_of(study: Study, *, num_gpus: int | None = None, global_batch: int | None = None) -> ParallelJob:
    """Return the study's job, on other devices or with another batch if given."""
    cluster, efficiency = find_training_cluster("frontier")
    return ParallelJob(
        model=find_training_model(study.model),
        cluster=cluster,
        efficiency=efficiency,
        num_gpus=num_gpus or study.num_gpus,
        global_batch=global_batch or study.global_batch,
    )


def _layout(study: Study, num_gpus: int) -> TrainingLayout:
    assert study.degrees is not None
    tp, pp = study.degrees
    return TrainingLayout(tp=tp, pp=pp, dp=num_gpus // (tp * pp), zero_stage=1, flash_attention=True)


def _told(study: Study) -> str:
    return "layout of the planner" if study.degrees is None else f"TP {study.degrees[0]}, PP {study.degrees[1]}"
