"""A step taken apart: what each operator does, what the roofline allows it, and what it should take here.

The work of matrices, attention and output projection is :mod:`steelyard.cost.roofline`'s. Added are what stands
between them (norms, sums, activations), rotating and storing keys, sampling, and the step's own overhead, so that the
parts add up to a step. A measured step, given as seconds by operator, goes beside them with :func:`operator_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.core.errors import InputError
from steelyard.core.units import ceil_div
from steelyard.cost.calibration import IDEAL, Calibration, cached_share
from steelyard.cost.roofline import (
    ModelShape,
    StepShape,
    Work,
    attention_work,
    linear_work,
    lm_head_work,
)
from steelyard.hardware.device import Device

LINEAR, KV_WRITE, ATTENTION, ELEMENTWISE, LM_HEAD, SAMPLING, STEP = OPERATORS = (
    "linear", "kv_write", "attention", "elementwise", "lm_head", "sampling", "step",
)  # fmt: skip
# Matrix products per layer: queries, keys and values in one; output; gate and up in one; down.
LINEARS_PER_LAYER = 4
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCost:
    """One operator's share of a step.

    Attributes:
        num_calls: how often it is called in the step.
        flop: of all calls.
        num_bytes: moved between device and memory by all calls.
        limit_s: by the roofline: no implementation takes less, unless the bytes stay in a cache.
        predicted_s: by the calibration; the limit where there is none.
    """

    name: str
    num_calls: int
    flop: float
    num_bytes: float
    limit_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    """One line of a step's table; seconds.

    Attributes:
        share: of the step's time: the measured one where all operators were measured, else the predicted one.
        measured_s: ``None`` where nobody measured.
    """

    name: str
    share: float
    predicted_s: float
    measured_s: float | None
    limit_s: float


def operator_costs(
    model: ModelShape, step: StepShape, device: Device, calibration: Calibration = IDEAL
) -> tuple[OperatorCost, ...]:
    """Return what each of :data:`OPERATORS` costs in ``step``, in that order.

    Args:
        model: the decoder; its ``weight_bytes`` and ``kv_bytes`` may be fractions for packed formats.
        step: an empty one costs the step's overhead only.
        device: its rate in ``model.dtype`` and its first memory's bandwidth are the roofs.
        calibration: of the implementation that shall run it.

    Raises:
        InputError: if the device's rate or bandwidth is not known.
    """
    flop_per_s, bytes_per_s = device.flop_per_s(model.dtype), device.bandwidth_bytes_per_s

    linear, attention, head = linear_work(step, model), attention_work(step, model), lm_head_work(step, model)
    cached = cached_share(linear.num_bytes + attention.num_bytes + head.num_bytes, _largest_cache_bytes(device))

    def cost(name: str, work: Work, num_calls: int) -> OperatorCost:
        fit = calibration.fit(name, model.dtype)
        compute_s, memory_s = work.flop / flop_per_s, work.num_bytes / bytes_per_s
        return OperatorCost(
            name=name,
            num_calls=num_calls,
            flop=work.flop,
            num_bytes=work.num_bytes,
            limit_s=max(compute_s, memory_s),
            predicted_s=fit.seconds(compute_s, memory_s, num_calls, cached),
        )

    layers, once = (model.num_layers, 1) if step.sequences else (0, 0)
    return (
        cost(LINEAR, linear, LINEARS_PER_LAYER * layers),
        cost(KV_WRITE, kv_write_work(step, model), layers),
        cost(ATTENTION, attention, layers),
        cost(ELEMENTWISE, elementwise_work(step, model), layers),
        cost(LM_HEAD, head, once),
        cost(SAMPLING, sampling_work(step, model), once),
        cost(STEP, Work(0.0, 0.0), 1),
    )


def _largest_cache_bytes(device: Device) -> int:
    return max((cache.capacity_bytes for cache in device.caches), default=0)


def kv_write_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work of rotating queries and keys and of storing keys and values, in all layers.

    One operation per element read or written by the rotation. Of the bytes, those of the new keys and values are
    attention's; these are the other tokens' keys in each group of ``model.key_group`` that the new ones are put among:
    nearly none for a prompt, all but one of a group for a decode. The rotated rows stay in caches.
    """
    others = 0
    for sequence in step.sequences:
        start = sequence.context_after - sequence.num_new_tokens
        num_groups = ceil_div(sequence.context_after, model.key_group) - start // model.key_group
        others += num_groups * model.key_group - sequence.num_new_tokens
    rotated = 2 * (model.num_heads + model.num_kv_heads) * model.head_dim
    key_bytes = model.num_kv_heads * model.head_dim * model.kv_bytes
    return Work(float(step.num_tokens * model.num_layers * rotated), model.num_layers * others * key_bytes)


def elementwise_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work between the matrices of all layers, as if each operation read and wrote its rows.

    Per layer and token: two norms and two sums over the residual stream (10 · hidden), and the gated activation
    (3 · feed-forward size, left out where that is unknown). One operation per element moved. Fused kernels move less.
    """
    elements = 10 * model.hidden_size + 3 * (model.feed_forward_size or 0)
    total = float(step.num_tokens * model.num_layers * elements)
    return Work(total, total * _ITEM_BYTES.get(model.dtype, 4))


def sampling_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work of choosing tokens: each sequence's float32 logits are looked at once."""
    elements = float(len(step.sequences) * model.vocab_size)
    return Work(elements, elements * _LOGIT_BYTES)


def total_s(costs: tuple[OperatorCost, ...]) -> tuple[float, float]:
    """Return the seconds of the whole step: predicted, and by the roofline."""
    return sum(cost.predicted_s for cost in costs), sum(cost.limit_s for cost in costs)


def summed(steps: Sequence[tuple[OperatorCost, ...]]) -> tuple[OperatorCost, ...]:
    """Return what several steps cost together, operator by operator; at least one must be given."""
    return tuple(
        OperatorCost(
            name=costs[0].name,
            num_calls=sum(cost.num_calls for cost in costs),
            flop=sum(cost.flop for cost in costs),
            num_bytes=sum(cost.num_bytes for cost in costs),
            limit_s=sum(cost.limit_s for cost in costs),
            predicted_s=sum(cost.predicted_s for cost in costs),
        )
        for costs in zip(*steps, strict=True)
    )


def operator_rows(
    costs: tuple[OperatorCost, ...], measured: Mapping[str, float] | None = None
) -> tuple[OperatorRow, ...]:
    """Return the table of a step, predicted beside measured.

    Args:
        costs: from :func:`operator_costs`.
        measured: seconds by operator, as far as measured.

    Raises:
        InputError: if something is measured that is no operator.
    """
    given = measured or {}
    for name in given:
        if name not in OPERATORS:
            raise InputError("is no operator", field=name, remedy=f"Use {', '.join(OPERATORS)}")
    whole = all(cost.name in given for cost in costs)
    times = {cost.name: given[cost.name] if whole else cost.predicted_s for cost in costs}
    total = sum(times.values())
    return tuple(
        OperatorRow(
            name=cost.name,
            share=times[cost.name] / total if total > 0 else 0.0,
            predicted_s=cost.predicted_s,
            measured_s=given.get(cost.name),
            limit_s=cost.limit_s,
        )
        for cost in costs
    )
