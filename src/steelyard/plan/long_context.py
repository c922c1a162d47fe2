"""The four costs of long contexts, all from the size of the KV cache: :func:`context_costs` (S14, arXiv:2405.08944).

How many users' caches fit beside the weights, how long a prompt is prefilled, how long an answer is decoded, and how
long one user's cache is swapped for another's. Peak rates throughout, as in the paper: what no implementation beats.
Left out: batches (each user decodes alone), communication between the devices of a tensor-parallel group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.units import format_bytes
from steelyard.cost.roofline import ModelShape, StepShape, attention_work, linear_work, lm_head_work, step_cost
from steelyard.hardware.device import Device, MemoryTier, PeakRate
from steelyard.plan.serving_catalogue import ServingDevice, kv_token_bytes, weights_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextJob:
    """Who serves what.

    Attributes:
        num_devices: over which weights, cache and work are split evenly.
        answer_tokens: decoded per answer.

    Raises:
        ParamsError: if a number is below 1.
        MemoryBudgetError: if the weights alone do not fit; it says on how many devices they do.
    """

    model: ModelShape
    device: ServingDevice
    num_devices: int = 1
    answer_tokens: int = 250

    def __post_init__(self) -> None:
        for name in ("num_devices", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")
        weights = weights_bytes(self.model)
        if self.room_bytes < kv_token_bytes(self.model):
            enough = int(weights // self.device.memory_bytes) + 1
            raise MemoryBudgetError(
                f"the weights take {format_bytes(weights)} of the {format_bytes(self.memory_bytes)} of "
                f"{self.num_devices} × {self.device.name}",
                field="memory",
                remedy=f"Take {enough} of them, or another device",
            )

    @property
    def memory_bytes(self) -> float:
        """Memory of all devices."""
        return float(self.num_devices * self.device.memory_bytes)

    @property
    def room_bytes(self) -> float:
        """What the weights leave for KV caches."""
        return self.memory_bytes - weights_bytes(self.model)

    @property
    def longest_context(self) -> int:
        """Tokens of the longest context of which one fits."""
        return int(self.room_bytes // kv_token_bytes(self.model))

    def longest_for(self, users: int) -> int:
        """Return the tokens of the longest context of which ``users`` fit at once."""
        return int(self.room_bytes // users // kv_token_bytes(self.model))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCosts:
    """What a context of this length costs.

    Attributes:
        kv_bytes: its keys and values.
        concurrency: users whose caches fit at once; 0 if not even one does.
        prefill_s: computing it from nothing.
        prefill_attention_s: of that, the part that grows with its square.
        decode_s: an answer after it, every token reading weights and cache.
        switch_s: one user's cache to host memory and another's back.
    """

    context_tokens: int
    kv_bytes: float
    concurrency: int
    prefill_s: float
    prefill_attention_s: float
    decode_s: float
    switch_s: float


def context_costs(job: ContextJob, context_tokens: int) -> ContextCosts:
    """Return the four costs of one context length.

    Raises:
        ParamsError: if the length is below 1.
    """
    if context_tokens < 1:
        raise ParamsError(f"{context_tokens} is below 1", field="context", remedy="Give a positive number")
    device, model = _joined(job), job.model
    prompt, token = StepShape.of((context_tokens, context_tokens)), StepShape.of((1, context_tokens))
    kv_bytes = context_tokens * kv_token_bytes(model)
    flop_per_s = device.flop_per_s(model.dtype)
    return ContextCosts(
        context_tokens=context_tokens,
        kv_bytes=kv_bytes,
        concurrency=int(job.room_bytes // kv_bytes),
        prefill_s=prompt_flop(model, prompt) / flop_per_s,
        prefill_attention_s=attention_work(prompt, model).flop / flop_per_s,
        decode_s=job.answer_tokens * step_cost(token, model, device).seconds,
        switch_s=2 * kv_bytes / (job.num_devices * job.device.host_bytes_per_s),
    )


def prompt_flop(model: ModelShape, prompt: StepShape) -> float:
    """Return the operations of prefilling ``prompt``."""
    return linear_work(prompt, model).flop + attention_work(prompt, model).flop + lm_head_work(prompt, model).flop


def context_reasons(job: ContextJob, costs: tuple[ContextCosts, ...]) -> tuple[str, ...]:
    """Return what binds, in sentences: where concurrency ends, and what grows most over the lengths."""
    first, last = costs[0], costs[-1]
    told = [
        f"Each token takes {format_bytes(kv_token_bytes(job.model))} of KV cache; weights leave "
        f"{format_bytes(job.room_bytes)}, so one user fits up to {job.longest_context} tokens and ten up to "
        f"{job.longest_for(10)}."
    ]
    if last is first:
        return tuple(told)
    grown = {
        "prefill": last.prefill_s / first.prefill_s,
        "decoding": last.decode_s / first.decode_s,
        "switching": last.switch_s / first.switch_s,
    }
    name = max(grown, key=lambda one: grown[one])
    lengths = f"From {first.context_tokens} to {last.context_tokens} tokens"
    told.append(f"{lengths} {name} grows most, {grown[name]:.1f} times; decoding {grown['decoding']:.2f} times.")
    if last.concurrency == 0:
        told.append(
            f"Memory binds: {last.context_tokens} tokens do not fit at all; the nearest length that does is "
            f"{job.longest_context}."
        )
    elif last.prefill_attention_s > last.prefill_s / 2:
        told.append("At the longest, most of the prefill is attention, which grows with the square.")
    return tuple(told)


def _joined(job: ContextJob) -> Device:
    """Return the devices as one whose rates and memory add up."""
    device, count = job.device.device, job.num_devices
    tier = MemoryTier(
        name=device.memory[0].name,
        capacity_bytes=count * device.memory[0].capacity_bytes,
        bandwidth_bytes_per_s=count * device.bandwidth_bytes_per_s,
    )
    peak = PeakRate(dtype=job.model.dtype, flop_per_s=count * device.flop_per_s(job.model.dtype))
    return replace(device, memory=(tier,), peaks=(peak,))
