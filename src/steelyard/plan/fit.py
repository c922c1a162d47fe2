"""Does a model fit, before anything is loaded: :func:`fit`.

What the engine allocates, counted per number format: weights, KV cache, workspace of a step, and what loading needs on
top for a moment. The remedy for what does not fit is part of the answer. Left out: several devices, offloading, and
the share of memory that the engine gives its KV cache unasked (here all of the rest may be cache).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from steelyard.core.errors import ParamsError
from steelyard.core.units import MIB, ceil_div, format_bytes, round_up
from steelyard.hardware.device import DeviceKind, Machine
from steelyard.plan.footprint import ModelFootprint

# Beyond this share of the memory that is free now a fit is called tight: other programmes move too.
TIGHT_SHARE = 0.9
MAX_BATCH = 4096
QUERY_TILE = 128  # memory.step_plan cuts queries, …
MAX_GROUP_BLOCKS = 4096  # … gathered keys …
MAX_MASK_ELEMENTS = 1 << 24  # … and masks into pieces of at most these sizes
_SAMPLED_LOGITS = 1 << 22  # engine.logits works on so many at once, …
_BYTES_PER_SAMPLED_LOGIT = 80  # … with some ten float64 copies
_STEP_TOKENS = {DeviceKind.CPU: 512, DeviceKind.GPU: 2048, DeviceKind.ACCELERATOR: 2048}
# What a process takes besides: heap that is not given back, kernel scratch and, on a GPU, the CUDA context.
_RUNTIME_BYTES = {DeviceKind.CPU: 256 * MIB, DeviceKind.GPU: 1024 * MIB, DeviceKind.ACCELERATOR: 1024 * MIB}
_FLOAT32, _BFLOAT16, _STORED, QUANTISED = "float32", "bfloat16", "as stored", "quantised"
_ITEM_BYTES = {_FLOAT32: 4, _BFLOAT16: 2, QUANTISED: 4}
_QUANTISED_KV_BYTES = 2
# Packing pads rows, and some formats' scales take more room than in the file.
_PACKED_GROWTH = 1.1


class Verdict(Enum):
    """Whether something fits."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLoad:
    """What shall fit.

    Attributes:
        context: tokens of prompt and output together, per sequence.
        batch: sequences of that length at once.
        block_size: tokens per KV block.
        step_tokens: tokens computed in one step; ``None`` for the engine's choice for the device.

    Raises:
        ParamsError: if a number is below 1.
    """

    context: int
    batch: int
    block_size: int = 16
    step_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "batch", "block_size", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParamsError(f"{value} is below 1", field=name, remedy="Give a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What the engine allocates on the device, bytes.

    Attributes:
        weights: parameters as they are held, copies included.
        kv_cache: of all sequences at full length.
        workspace: of one step, an upper estimate.
        loading: what loading takes on top of the weights and gives back before there is a KV cache.
        runtime: the process itself.
    """

    weights: int
    kv_cache: int
    workspace: int
    loading: int
    runtime: int

    @property
    def peak(self) -> int:
        """The most at any moment: while loading, or while running."""
        return self.runtime + self.weights + max(self.loading, self.kv_cache + self.workspace)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFit:
    """One number format's answer.

    Attributes:
        name: ``float32``, ``bfloat16`` or ``as stored``.
        held_as: the format that weights and KV cache have in memory.
        max_context: the longest context at the batch asked for; 0 if none fits.
        max_batch: the largest batch at the context asked for; 0 if none fits.
        remedy: what to do if it does not fit or is tight, else ``None``.
        note: what else to know, or ``None``.
    """

    name: str
    held_as: str
    need: MemoryNeed
    verdict: Verdict
    max_context: int
    max_batch: int
    remedy: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Whether a model fits a device, in each format."""

    model: str
    device: str
    available_bytes: int
    load: FitLoad
    formats: tuple[FormatFit, ...]

    def format(self, name: str) -> FormatFit:
        """Return one format's answer.

        Raises:
            ParamsError: if there is no such format; it lists them.
        """
        for one in self.formats:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in self.formats)
        raise ParamsError(f"{name!r} was not asked about", field="dtype", remedy=f"Use one of {names}")


def fit(
    footprint: ModelFootprint, machine: Machine, load: FitLoad, *, device: str = "cpu", keeps_blocks: bool = False
) -> FitReport:
    """Return whether ``load`` on a model fits what ``device`` has free, per format.

    Args:
        footprint: the model's sizes.
        machine: from :func:`steelyard.hardware.this_machine.this_machine`, or a description.
        load: context and batch.
        device: the name of one of the machine's devices.
        keeps_blocks: whether the engine keeps stored blocks of this model as they are on CPUs.

    Raises:
        ParamsError: if the context is longer than the model's.
        InputError: if the machine has no such device.
    """
    if load.context > footprint.max_context:
        raise ParamsError(
            f"{load.context} is more than the model's context of {footprint.max_context}",
            field="context",
            remedy=f"Give at most {footprint.max_context}",
        )
    target = machine.device(device)
    available = target.memory[0].usable_bytes
    names = (_FLOAT32, _BFLOAT16, *([_STORED] if footprint.stored else []))
    held = {name: _held_as(name, target.kind, keeps_blocks) for name in names}
    formats = tuple(_format_fit(footprint, load, name, held[name], target.kind, available) for name in names)
    return FitReport(model=footprint.name, device=device, available_bytes=available, load=load, formats=formats)


def memory_need(footprint: ModelFootprint, load: FitLoad, dtype: str, kind: DeviceKind) -> MemoryNeed:
    """Return what the engine allocates for ``load`` with weights and KV cache in ``dtype`` on a device of ``kind``."""
    item = _ITEM_BYTES[dtype]
    tokens = load.batch * round_up(load.context, load.block_size)
    if dtype == QUANTISED:
        return MemoryNeed(
            weights=int(_PACKED_GROWTH * footprint.stored_bytes),
            kv_cache=(tokens + load.block_size) * footprint.kv_elements_per_token * _QUANTISED_KV_BYTES,
            workspace=_workspace_bytes(footprint, load, item, kind),
            loading=footprint.stored_bytes,
            runtime=_RUNTIME_BYTES[kind],
        )
    return MemoryNeed(
        weights=_weight_elements(footprint, kind) * item,
        kv_cache=(tokens + load.block_size) * footprint.kv_elements_per_token * item,
        workspace=_workspace_bytes(footprint, load, item, kind),
        loading=footprint.layer_params * item if kind is DeviceKind.CPU else 0,
        runtime=_RUNTIME_BYTES[kind],
    )


def _weight_elements(footprint: ModelFootprint, kind: DeviceKind) -> int:
    """Return elements held. On a CPU linear layers are repacked, so a tied output projection is a copy of its own.

    Repacking also decides what loading needs on top: the engine lets the layers' first form go when all are packed.
    """
    own_head = kind is DeviceKind.CPU or not footprint.tied_embeddings
    return footprint.embedding_params + footprint.layer_params + (footprint.head_params if own_head else 0)


def _workspace_bytes(footprint: ModelFootprint, load: FitLoad, item: int, kind: DeviceKind) -> int:
    """Return an upper estimate of a step's temporaries: activations, gathered keys, masks, logits."""
    step = load.step_tokens or _STEP_TOKENS[kind]
    step = min(step, load.batch * load.context)
    num_sampled = min(load.batch, step)
    activations = step * (footprint.activation_elements_per_token + 3 * footprint.hidden_size)
    blocks = ceil_div(load.context, load.block_size)
    num_tiles = max(num_sampled, ceil_div(step, QUERY_TILE))
    gathered = min(num_tiles * blocks, max(MAX_GROUP_BLOCKS, blocks)) * load.block_size
    keys = 2 * gathered * footprint.kv_elements_per_layer  # gathered, and laid out again by the attention kernel
    tile = min(step, QUERY_TILE) * load.context
    # A mask is made, converted, repeated for the heads of a group and padded.
    masks = min(step * load.context, max(MAX_MASK_ELEMENTS, tile)) * 2 * (1 + footprint.heads_per_kv_head)
    logits = num_sampled * footprint.vocab_size
    sampling = 8 * logits + _BYTES_PER_SAMPLED_LOGIT * min(logits, max(_SAMPLED_LOGITS, footprint.vocab_size))
    return (activations + keys + masks) * item + sampling


def _format_fit(
    footprint: ModelFootprint, load: FitLoad, name: str, held_as: str, kind: DeviceKind, available: int
) -> FormatFit:
    def peak(context: int, batch: int) -> int:
        other = FitLoad(context=context, batch=batch, block_size=load.block_size, step_tokens=load.step_tokens)
        return memory_need(footprint, other, held_as, kind).peak

    need = memory_need(footprint, load, held_as, kind)
    verdict = _verdict(need.peak, available)
    max_context = _largest(footprint.max_context, lambda context: peak(context, load.batch), available)
    max_batch = _largest(MAX_BATCH, lambda batch: peak(load.context, batch), available)
    least = memory_need(footprint, FitLoad(context=1, batch=1), held_as, kind).peak
    return FormatFit(
        name=name,
        held_as=held_as,
        need=need,
        verdict=verdict,
        max_context=max_context,
        max_batch=max_batch,
        remedy=_remedy(verdict, load, max_context, max_batch, held_as, least - available),
        note=_stored_note(footprint, held_as) if name == _STORED else None,
    )


def _held_as(name: str, kind: DeviceKind, keeps_blocks: bool) -> str:
    """Return what the engine holds; blocks that it does not keep are read into the device's usual format."""
    if name != _STORED:
        return name
    if keeps_blocks and kind is DeviceKind.CPU:
        return QUANTISED
    return _FLOAT32 if kind is DeviceKind.CPU else _BFLOAT16


def _verdict(peak: int, available: int) -> Verdict:
    if peak > available:
        return Verdict.DOES_NOT_FIT
    return Verdict.TIGHT if peak > TIGHT_SHARE * available else Verdict.FITS


def _largest(limit: int, peak: Callable[[int], int], available: int) -> int:
    """Return the largest number from 0 to ``limit`` whose peak, which grows with it, stays within ``available``."""
    return bisect_right(range(1, limit + 1), available, key=peak)


def _remedy(
    verdict: Verdict, load: FitLoad, max_context: int, max_batch: int, held_as: str, missing: int
) -> str | None:
    if verdict is Verdict.FITS:
        return None
    if verdict is Verdict.TIGHT:
        return "Close other programmes, or take a smaller context or batch"
    options = []
    if max_context:
        options.append(f"a context of at most {max_context} tokens")
    if max_batch and load.batch > 1:
        options.append(f"a batch of at most {max_batch}")
    if options:
        return "Take " + " or ".join(options)
    smaller = "Use bfloat16, or take a smaller model" if held_as == _FLOAT32 else "Take a smaller model"
    if missing <= 0:
        return f"Take a smaller context together with a smaller batch. {smaller}"
    return f"{smaller}; even one token needs {format_bytes(missing)} more"


def _stored_note(footprint: ModelFootprint, held_as: str) -> str:
    formats = ", ".join(part.name for part in footprint.stored)
    if held_as == QUANTISED:
        return (
            f"{format_bytes(footprint.stored_bytes)} on disk ({formats}), kept so in memory, repacked; "
            "the KV cache takes 16 bits per element"
        )
    return (
        f"{format_bytes(footprint.stored_bytes)} on disk ({formats}), read into {held_as}: "
        "weights are not kept in a quantised form"
    )
