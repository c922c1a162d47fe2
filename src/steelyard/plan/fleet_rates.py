"""What one device serves within an objective, by size of request: :func:`served_rate` (for S07).

A device runs a constant batch of alike requests: while one is answered, as many prompts as the batch has requests are
prefilled, and every token of the answer takes one decoding step of the batch. The largest batch that fits the memory
and meets the objective gives the rate. Shares of peak that serving engines reach are in :class:`ServingEfficiency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steelyard.core.errors import InputError, ParamsError
from steelyard.cost.roofline import ModelShape, StepShape, step_cost
from steelyard.hardware.device import Device, MemoryTier, PeakRate
from steelyard.plan.fleet import GpuType, SizeBucket
from steelyard.plan.serving_catalogue import ServingDevice, kv_token_bytes, weights_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEfficiency:
    """What an engine reaches of a device's peaks.

    Attributes:
        flop_share: of the arithmetic.
        bandwidth_share: of the memory's bandwidth.
        memory_share: of its capacity, for weights and KV cache.
        overhead_s: of each step, beside the device's work.
        sequence_s: of each step, per sequence in it.
        max_batch: sequences that the engine runs at once.

    The overheads are fitted: with them the advantage of A10G or A100 per dollar has the sign that Mélange measured with
    vLLM of early 2024 in the most sizes (steelyard reproduce S07). The rest are common values.
    """

    flop_share: float = 0.6
    bandwidth_share: float = 0.8
    memory_share: float = 0.9
    overhead_s: float = 0.005
    sequence_s: float = 0.0004
    max_batch: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One batch size's outcome: requests per second, and seconds per answered token, prefill and waiting included."""

    batch: int
    rate_per_s: float
    token_s: float


def served_rate(
    model: ModelShape, device: ServingDevice, size: tuple[int, int], slo_token_s: float, engine: ServingEfficiency
) -> Served | None:
    """Return the best outcome within the objective; ``None`` if there is none.

    Args:
        model: in float16.
        device: one of them holds weights and cache.
        size: tokens of prompt and answer.
        slo_token_s: seconds from arrival to the end, divided by the answer's tokens, at most.
        engine: shares of peak.

    Raises:
        ParamsError: if the objective is not positive.
    """
    if not slo_token_s > 0:
        raise ParamsError(f"{slo_token_s:g} is not positive", field="slo", remedy="Give a time above 0")
    low, high = 0, largest_batch(model, device, size, engine)
    real = _derated(device.device, engine, model.dtype)
    while low < high:  # time per token grows with the batch
        middle = (low + high + 1) // 2
        if _outcome(model, real, size, middle, engine).token_s <= slo_token_s:
            low = middle
        else:
            high = middle - 1
    return _outcome(model, real, size, low, engine) if low else None


def modelled_type(
    model: ModelShape, device: ServingDevice, buckets: Sequence[SizeBucket], slo_token_s: float
) -> GpuType:
    """Return a device with its modelled rate for every bucket.

    Raises:
        InputError: if its price is not known.
    """
    if device.price_per_hour is None:
        raise InputError(f"the price of {device.name} is not known", field="gpu", remedy="Give a --profile with prices")
    engine = ServingEfficiency()
    sizes = [(bucket.prompt_tokens, bucket.answer_tokens) for bucket in buckets]
    served = [served_rate(model, device, size, slo_token_s, engine) for size in sizes]
    rates = tuple(0.0 if one is None else one.rate_per_s for one in served)
    return GpuType(name=device.name, price_per_hour=device.price_per_hour, rates_per_s=rates)


def largest_batch(model: ModelShape, device: ServingDevice, size: tuple[int, int], engine: ServingEfficiency) -> int:
    """Return how many requests of a size fit beside the weights at once; 0 if not one."""
    room = engine.memory_share * device.memory_bytes - weights_bytes(model)
    return min(engine.max_batch, max(0, int(room // (sum(size) * kv_token_bytes(model)))))


def _outcome(model: ModelShape, device: Device, size: tuple[int, int], batch: int, engine: ServingEfficiency) -> Served:
    prompt, answer = size
    prefill = step_cost(StepShape.of((prompt, prompt)), model, device, overhead_s=engine.overhead_s).seconds
    middle = StepShape.of(*[(1, prompt + (answer + 1) // 2)] * batch)
    overhead = engine.overhead_s + batch * engine.sequence_s
    step = step_cost(middle, model, device, overhead_s=overhead).seconds
    lifetime = batch * prefill + answer * step
    return Served(batch=batch, rate_per_s=batch / lifetime, token_s=lifetime / answer)


def _derated(device: Device, engine: ServingEfficiency, dtype: str) -> Device:
    """Return the device with the rates that the engine reaches."""
    tier = MemoryTier(
        name=device.memory[0].name,
        capacity_bytes=device.memory[0].capacity_bytes,
        bandwidth_bytes_per_s=engine.bandwidth_share * device.bandwidth_bytes_per_s,
    )
    peak = PeakRate(dtype=dtype, flop_per_s=engine.flop_share * device.flop_per_s(dtype))
    return replace(device, memory=(tier,), peaks=(peak,))
