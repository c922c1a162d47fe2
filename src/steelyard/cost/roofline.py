"""Seconds, operations and bytes of one engine step by the roofline model: the slower of computing and reading.

Each part of a step (linear layers, attention, output projection) is taken as limited either by the device's matrix
rate or by its memory bandwidth, whichever takes longer (Williams, Waterman and Patterson, "Roofline", CACM 2009), and
the parts follow one another. Everything grows with everything: more tokens, longer contexts, larger models and slower
devices never make a step cheaper.

Left out: activations' traffic, norms and rotations (small beside the weights), caches, links between devices, experts
that a step does not touch, and whatever keeps a kernel from its roof; put measured rates in the device for that.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from steelyard.core.errors import InputError
from steelyard.hardware.device import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a decoder decides its cost.

    Attributes:
        num_layer_params: weights of all layers' matrices that every token passes; embeddings and output excluded.
        hidden_size: width of the residual stream.
        vocab_size: rows of the output projection.
        num_heads: query heads per layer.
        num_kv_heads: key/value heads per layer.
        head_dim: size of a head.
        windows: per layer, how many tokens it sees at most (the token itself included); ``None`` for all.
        weight_bytes: bytes per weight as read from memory; a fraction for packed formats (4.5 bits are 0.5625).
        head_weight_bytes: the same of the output projection; ``None`` for as the layers'.
        kv_bytes: bytes per element of a key or value.
        key_group: tokens whose keys lie element by element beside each other in the cache, so that who writes one
            touches the memory of all; 1 for keys that lie one after another.
        dtype: number format of the arithmetic, which picks the device's rate.
        feed_forward_size: inner size of the feed-forward networks (of a mixture, of the experts that a token passes,
            together); ``None`` if not known, which leaves the traffic of activations out.

    Raises:
        InputError: if a number is not positive.
    """

    num_layer_params: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    weight_bytes: float = 4.0
    kv_bytes: float = 4.0
    dtype: str = "float32"
    feed_forward_size: int | None = None
    head_weight_bytes: float | None = None
    key_group: int = 1

    def __post_init__(self) -> None:
        for name in (
            "num_layer_params", "hidden_size", "vocab_size", "num_heads", "num_kv_heads", "head_dim", "weight_bytes",
            "kv_bytes", "key_group",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"{getattr(self, name)} is not positive", field=name, remedy="Give a number above 0")
        if self.head_weight_bytes is not None and not self.head_weight_bytes > 0:
            raise InputError(
                f"{self.head_weight_bytes} is not positive", field="head_weight_bytes", remedy="Give None if alike"
            )
        if self.feed_forward_size is not None and self.feed_forward_size < 1:
            raise InputError(
                f"{self.feed_forward_size} is not positive", field="feed_forward_size", remedy="Give None if unknown"
            )
        if not self.windows or any(window is not None and window < 1 for window in self.windows):
            raise InputError(
                f"{self.windows} does not give one window per layer",
                field="windows",
                remedy="Give None or a positive number for each layer",
            )

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.windows)


@dataclass(frozen=True, slots=True)
class SequenceShape:
    """One sequence's share of a step: it computes ``num_new_tokens`` and then has ``context_after`` of them in all."""

    num_new_tokens: int
    context_after: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_new_tokens <= self.context_after:
            raise InputError(
                f"{self.num_new_tokens} new tokens cannot end in a context of {self.context_after}",
                field="num_new_tokens",
                remedy="Give at least 1 and at most context_after",
            )


@dataclass(frozen=True, slots=True)
class StepShape:
    """What one step computes; a decoding sequence has one new token. Each sequence gets one row of logits."""

    sequences: tuple[SequenceShape, ...]

    @classmethod
    def of(cls, *pairs: tuple[int, int]) -> StepShape:
        """Return the shape of ``(num_new_tokens, context_after)`` pairs."""
        return cls(tuple(SequenceShape(*pair) for pair in pairs))

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return sum(sequence.num_new_tokens for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, and bytes moved between the device and its memory."""

    flop: float
    num_bytes: float


@dataclass(frozen=True, slots=True)
class PartCost:
    """One part's work and how long the device takes for each side of it."""

    work: Work
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.compute_s, self.memory_s)

    @property
    def is_memory_bound(self) -> bool:
        """Whether memory is what it waits for."""
        return self.memory_s > self.compute_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What a step costs; the parts follow one another, after a fixed overhead."""

    linear: PartCost
    attention: PartCost
    lm_head: PartCost
    overhead_s: float

    @property
    def seconds(self) -> float:
        """Time of the whole step."""
        return self.overhead_s + self.linear.seconds + self.attention.seconds + self.lm_head.seconds

    @property
    def flop(self) -> float:
        """Floating-point operations of the whole step."""
        return self.linear.work.flop + self.attention.work.flop + self.lm_head.work.flop

    @property
    def num_bytes(self) -> float:
        """Bytes moved in the whole step."""
        return self.linear.work.num_bytes + self.attention.work.num_bytes + self.lm_head.work.num_bytes


def step_cost(step: StepShape, model: ModelShape, device: Device, *, overhead_s: float = 0.0) -> StepCost:
    """Return what ``step`` costs on ``device``.

    Args:
        step: an empty one costs the overhead only.
        model: the decoder.
        device: its rate in ``model.dtype`` and its first memory's bandwidth are used.
        overhead_s: fixed time per step: launching, scheduling, sampling.

    Raises:
        InputError: if the device's rate or bandwidth is not known, or the overhead is no duration.
    """
    if not (math.isfinite(overhead_s) and overhead_s >= 0):
        raise InputError(f"{overhead_s} is no duration", field="overhead_s", remedy="Give seconds, 0 or more")
    flop_per_s, bytes_per_s = device.flop_per_s(model.dtype), device.bandwidth_bytes_per_s

    def on_device(work: Work) -> PartCost:
        return PartCost(work, work.flop / flop_per_s, work.num_bytes / bytes_per_s)

    return StepCost(
        linear=on_device(linear_work(step, model)),
        attention=on_device(attention_work(step, model)),
        lm_head=on_device(lm_head_work(step, model)),
        overhead_s=overhead_s,
    )


def linear_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work of all layers' matrices.

    One multiplication and one addition per weight and token (Kaplan et al., arXiv:2001.08361, section 2.1); the
    weights are read once per step, however many tokens share them.
    """
    num_bytes = model.num_layer_params * model.weight_bytes if step.sequences else 0.0
    return Work(2.0 * model.num_layer_params * step.num_tokens, num_bytes)


def attention_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work of attention in all layers.

    Scores and the weighted sum each take 2 · head_dim operations per query head and visible key (the forward third of
    Chowdhery et al., arXiv:2204.02311, appendix B, with causal masking counted exactly). Each sequence's visible keys
    and values are read once, and those of its new tokens written once (Pope et al., arXiv:2211.05102, section 2).
    """
    pairs = elements = 0
    for window, num_layers in Counter(model.windows).items():
        for sequence in step.sequences:
            pairs += num_layers * visible_pairs(sequence, window)
            elements += num_layers * (visible_keys(sequence, window) + sequence.num_new_tokens)
    kv_width = 2 * model.num_kv_heads * model.head_dim
    return Work(4.0 * model.num_heads * model.head_dim * pairs, float(elements) * kv_width * model.kv_bytes)


def lm_head_work(step: StepShape, model: ModelShape) -> Work:
    """Return the work of the output projection: one row per sequence, its weights read once per step."""
    num_params, rows = model.hidden_size * model.vocab_size, len(step.sequences)
    weight_bytes = model.weight_bytes if model.head_weight_bytes is None else model.head_weight_bytes
    return Work(2.0 * num_params * rows, num_params * weight_bytes if rows else 0.0)


def visible_pairs(sequence: SequenceShape, window: int | None) -> int:
    """Return how many (new token, visible key) pairs there are: the sum of min(position + 1, window)."""
    first, last = sequence.context_after - sequence.num_new_tokens + 1, sequence.context_after
    if window is None or last <= window:
        return (first + last) * sequence.num_new_tokens // 2
    num_growing = max(0, window - first + 1)
    return (first + window) * num_growing // 2 + window * (sequence.num_new_tokens - num_growing)


def visible_keys(sequence: SequenceShape, window: int | None) -> int:
    """Return how many keys at least one of the new tokens sees."""
    if window is None:
        return sequence.context_after
    return min(sequence.context_after, window + sequence.num_new_tokens - 1)
