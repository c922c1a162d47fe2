"""How to cut up a training run: :func:`plan_parallel` tries every layout that divides evenly and keeps the fastest.

Tensor, pipeline and data degree, microbatch, interleaving, ZeRO stage, recomputation and sequence parallelism, under
the memory of one device (Megatron-LM S43, arXiv:2104.04473; the Frontier study S64, arXiv:2312.12705). The space is
small enough to be searched whole, so the answer is the best of the model that it is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.units import format_bytes
from steelyard.plan.training import (
    Recompute,
    TrainingCluster,
    TrainingEfficiency,
    TrainingLayout,
    TrainingModel,
)
from steelyard.plan.training_memory import TrainingMemory, training_memory
from steelyard.plan.training_step import TrainingStep, training_step

_MAX_MICROBATCH = 32
_MAX_INTERLEAVE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelJob:
    """What is to be trained, and on how much.

    Attributes:
        num_gpus: devices to use, all of them.
        global_batch: sequences per optimiser step.
        memory_share: of a device's memory that the planned bytes may fill; the rest is for what is not planned.

    Raises:
        ParamsError: if a number is below 1, or the share is none.
    """

    model: TrainingModel
    cluster: TrainingCluster
    efficiency: TrainingEfficiency
    num_gpus: int
    global_batch: int
    memory_share: float = 0.92

    def __post_init__(self) -> None:
        for name in ("num_gpus", "global_batch"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")
        if not 0 < self.memory_share <= 1:
            raise ParamsError(
                f"{self.memory_share} is no share", field="memory_share", remedy="Give above 0, at most 1"
            )

    @property
    def budget_bytes(self) -> float:
        """Bytes of a device that a layout may fill."""
        return self.cluster.memory_bytes * self.memory_share


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSpace:
    """Which layouts are tried.

    Attributes:
        flash_attention: whether the framework has it; not a choice of the planner.
        fixed: what is given, by the layout's own names, such as ``{"tp": 8}``.
    """

    recomputes: tuple[Recompute, ...] = tuple(Recompute)
    zero_stages: tuple[int, ...] = (0, 1)
    sequence_parallel: tuple[bool, ...] = (False, True)
    max_interleave: int = _MAX_INTERLEAVE
    flash_attention: bool = False
    fixed: tuple[tuple[str, int], ...] = field(default=())

    def allows(self, layout: TrainingLayout) -> bool:
        """Return whether ``layout`` agrees with what is given."""
        return all(getattr(layout, name) == value for name, value in self.fixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutForecast:
    """A layout, what it takes and what it holds."""

    layout: TrainingLayout
    step: TrainingStep
    memory: TrainingMemory

    def tflops_per_gpu(self, job: ParallelJob) -> float:
        """Return Tflop/s of one device as papers count them: one recomputation included, whatever was recomputed."""
        return job.model.step_flop(job.global_batch) / self.step.seconds / self.layout.num_gpus / 1e12

    def model_flop_share(self, job: ParallelJob) -> float:
        """Return the share of the peak that forward and backward alone would need (MFU)."""
        rate = job.model.model_flop(job.global_batch) / self.step.seconds / self.layout.num_gpus
        return rate / job.cluster.flop_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPlan:
    """What was found.

    Attributes:
        ranked: those that fit, the fastest of each (tp, pp, dp), the fastest first.
        too_large: the fastest of those that do not fit but would be faster; ``None`` if memory costs nothing.
        num_tried: layouts judged; ``num_too_large`` of them do not fit.
    """

    job: ParallelJob
    ranked: tuple[LayoutForecast, ...]
    too_large: LayoutForecast | None
    num_tried: int
    num_too_large: int

    @property
    def best(self) -> LayoutForecast:
        """The fastest that fits."""
        return self.ranked[0]


def plan_parallel(job: ParallelJob, space: LayoutSpace) -> ParallelPlan:
    """Return the layouts that fit, the fastest first.

    Raises:
        ParamsError: if no layout divides the devices, layers, heads and batch evenly.
        MemoryBudgetError: if none fits; it says which misses by least, and on how many devices one would fit.
    """
    forecasts = [forecast_layout(job, layout) for layout in layouts(job, space)]
    if not forecasts:
        raise _nothing_divides(job, space)
    forecasts.sort(key=lambda one: one.step.seconds)
    fitting = [one for one in forecasts if one.memory.total <= job.budget_bytes]
    if not fitting:
        raise _nothing_fits(job, space, min(forecasts, key=lambda one: one.memory.total))
    first_of: dict[tuple[int, int, int], LayoutForecast] = {}
    for one in fitting:
        first_of.setdefault((one.layout.tp, one.layout.pp, one.layout.dp), one)
    return ParallelPlan(
        job=job,
        ranked=tuple(first_of.values()),
        too_large=None if forecasts[0] is fitting[0] else forecasts[0],
        num_tried=len(forecasts),
        num_too_large=len(forecasts) - len(fitting),
    )


def reasons(plan: ParallelPlan) -> tuple[str, ...]:
    """Return why the best plan is the best, in sentences: what binds, where time goes, what came next."""
    best, budget = plan.best, plan.job.budget_bytes
    tried, too_large = plan.num_tried, plan.num_too_large
    told = [f"{tried} layouts divide evenly; {too_large} of them need more than {format_bytes(budget)}."]
    if plan.too_large is not None:
        gain, need = best.step.seconds / plan.too_large.step.seconds - 1, plan.too_large.memory.total
        told.append(
            f"Memory binds: {describe(plan.too_large.layout)} would be {100 * gain:.1f} % faster but needs "
            f"{format_bytes(need)} per device."
        )
    else:
        told.append("Memory does not bind: no layout that is too large would be faster.")
    name, seconds = max(losses(best.step).items(), key=lambda loss: loss[1])
    told.append(f"Most of what is not matrix products goes into {name}: {100 * seconds / best.step.seconds:.1f} %.")
    if len(plan.ranked) > 1:
        second = plan.ranked[1]
        slower = second.step.seconds / best.step.seconds - 1
        told.append(f"Next best: {describe(second.layout)}, {100 * slower:.1f} % slower.")
    return tuple(told)


def losses(step: TrainingStep) -> dict[str, float]:
    """Return the seconds that are not matrix products, by what they go into."""
    return {
        "element-wise kernels": step.elementwise_s,
        "tensor-parallel collectives": step.tp_s,
        "sending between stages": step.pp_s,
        "the pipeline's bubble": step.bubble_s,
        "data-parallel reduction": step.dp_s,
        "the optimiser": step.optimiser_s,
    }


def describe(layout: TrainingLayout) -> str:
    """Return a layout in a few words, e.g. ``TP 8, PP 16, DP 15, microbatch 1, 2 chunks, full recomputation``."""
    words = [f"TP {layout.tp}, PP {layout.pp}, DP {layout.dp}, microbatch {layout.microbatch}"]
    words += [f"{layout.interleave} chunks"] if layout.interleave > 1 else []
    words += [f"{layout.recompute.value} recomputation"] if layout.recompute is not Recompute.NONE else []
    words += ["sequence parallel"] if layout.sequence_parallel else []
    words += [f"ZeRO-{layout.zero_stage}"] if layout.zero_stage else []
    return ", ".join(words)


def forecast_layout(job: ParallelJob, layout: TrainingLayout) -> LayoutForecast:
    """Return what one layout takes and holds, whether it fits or not."""
    step = training_step(job.model, layout, job.cluster, job.efficiency, global_batch=job.global_batch)
    return LayoutForecast(layout=layout, step=step, memory=_memory(job, layout))


def fewest_gpus(job: ParallelJob, space: LayoutSpace) -> int | None:
    """Return the next larger number of devices, doubling, on which a layout fits; ``None`` up to 256 times as many.

    The batch grows with them.
    """
    for doublings in range(1, 9):
        factor = 2**doublings
        larger = replace(job, num_gpus=job.num_gpus * factor, global_batch=job.global_batch * factor)
        if any(_memory(larger, layout).total <= larger.budget_bytes for layout in layouts(larger, space)):
            return larger.num_gpus
    return None


def layouts(job: ParallelJob, space: LayoutSpace) -> Iterator[TrainingLayout]:
    """Yield every layout that divides evenly: heads by TP, layers by PP·v, batch by DP·microbatch."""
    model = job.model
    for tp in _divisors(model.num_heads, job.cluster.gpus_per_node):
        for pp in _divisors(model.num_layers, job.num_gpus // tp):
            dp, left_over = divmod(job.num_gpus, tp * pp)
            if left_over or job.global_batch % dp or model.vocab_size % tp:
                continue
            for layout in _with_degrees(job, space, TrainingLayout(tp=tp, pp=pp, dp=dp)):
                if space.allows(layout):
                    yield layout


def _with_degrees(job: ParallelJob, space: LayoutSpace, degrees: TrainingLayout) -> Iterator[TrainingLayout]:
    per_replica, per_stage = job.global_batch // degrees.dp, job.model.num_layers // degrees.pp
    for microbatch in _divisors(per_replica, _MAX_MICROBATCH):
        for interleave in _interleaves(degrees.pp, per_stage, per_replica // microbatch, space.max_interleave):
            for zero_stage in space.zero_stages if degrees.dp > 1 else (0,):
                if zero_stage > 1 and degrees.pp > 1:
                    continue  # gradients and weights cannot stay sharded while microbatches are in flight
                for recompute in space.recomputes:
                    for split in space.sequence_parallel if degrees.tp > 1 else (False,):
                        yield replace(
                            degrees,
                            microbatch=microbatch,
                            interleave=interleave,
                            zero_stage=zero_stage,
                            recompute=recompute,
                            sequence_parallel=split,
                            flash_attention=space.flash_attention,
                        )


def _interleaves(pp: int, layers_per_stage: int, num_microbatches: int, most: int) -> tuple[int, ...]:
    """Return the numbers of chunks per stage that can be scheduled; microbatches go round in groups of ``pp``."""
    if pp == 1 or num_microbatches % pp:
        return (1,)
    return tuple(_divisors(layers_per_stage, most))


def _divisors(number: int, most: int) -> Iterator[int]:
    return (one for one in range(1, min(number, most) + 1) if number % one == 0)


def _memory(job: ParallelJob, layout: TrainingLayout) -> TrainingMemory:
    return training_memory(job.model, layout, num_microbatches=layout.num_microbatches(job.global_batch))


def _nothing_fits(job: ParallelJob, space: LayoutSpace, nearest: LayoutForecast) -> MemoryBudgetError:
    enough = fewest_gpus(job, space)
    more = "Free some of the fixed degrees" if enough is None else f"{enough} devices are enough"
    return MemoryBudgetError(
        f"no layout of {job.model.name} on {job.num_gpus} devices fits {format_bytes(job.budget_bytes)} per device; "
        f"the nearest needs {format_bytes(nearest.memory.total)} ({describe(nearest.layout)})",
        field="memory",
        remedy=more,
    )


def _nothing_divides(job: ParallelJob, space: LayoutSpace) -> ParamsError:
    given = "".join(f", {name} = {value}" for name, value in space.fixed)
    return ParamsError(
        f"no layout divides {job.num_gpus} devices, {job.model.num_layers} layers, {job.model.num_heads} heads and a "
        f"batch of {job.global_batch} evenly{given}",
        field="num_gpus",
        remedy="Give a batch that the data-parallel degree divides, or fewer fixed degrees",
    )
