"""Reading rotary embeddings from ``config.json``, old style and new, and from GGUF metadata.

Old files have ``rope_theta`` and ``rope_scaling``; since version 5 of transformers both are in ``rope_parameters``.
LongRoPE switches factors when a sequence outgrows the original context, which would change keys already in the cache;
models that use it are run within the original context, where the short factors hold (:func:`usable_context`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from steelyard.models.basics import Basics, gguf_keys
from steelyard.models.config import (
    MAX_CONTEXT,
    DynamicScaling,
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)
from steelyard.models.keys import Keys
from steelyard.models.weights.source import WeightSource

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def hf_rope(
    keys: Keys,
    basics: Basics,
    *,
    theta: float = 10_000.0,
    theta_key: str = "rope_theta",
    partial: float = 1.0,
    partial_key: str | None = None,
    longrope: bool = False,
) -> RopeConfig:
    """Return the rotary embedding that ``config.json`` describes.

    Args:
        keys: the whole file.
        basics: the model's sizes.
        theta: default base.
        theta_key: where old files have the base.
        partial: default share of a head that is rotated.
        partial_key: where old files have the share; ``None`` for a family that rotates whole heads.
        longrope: whether the caller limits the context (:func:`usable_context`), which LongRoPE needs.
    """
    params = rope_section(keys)
    theta = params.number("rope_theta", keys.number(theta_key, theta))
    if partial_key is not None:
        partial = params.number("partial_rotary_factor", keys.number(partial_key, partial))
    if not 0 < partial <= 1:
        raise keys.wrong("partial_rotary_factor", f"{partial} is not above 0 and at most 1")
    scaling = hf_scaling(params, keys, basics.context_length)
    if isinstance(scaling, FactorScaling) and not longrope:
        raise params.wrong("rope_type", "longrope is not supported for this family")
    return RopeConfig(theta=theta, dim=int(basics.head_dim * partial), scaling=scaling)


def rope_section(keys: Keys) -> Keys:
    """Return the rotary parameters: ``rope_scaling`` if there, else ``rope_parameters``, else nothing."""
    return keys.section("rope_scaling" if "rope_scaling" in keys else "rope_parameters")


def hf_scaling(params: Keys, keys: Keys, context_length: int) -> RopeScaling | None:
    """Return the scaling that ``params`` describe, ``None`` for none.

    Args:
        params: a ``rope_parameters`` or ``rope_scaling`` object.
        keys: the whole file, where some families keep the original context.
        context_length: ``max_position_embeddings``.
    """
    kind = params.text("rope_type", params.text("type", "default"))
    match {"su": "longrope"}.get(kind, kind):
        case "default":
            return None
        case "linear":
            return LinearScaling(factor=_factor(params))
        case "dynamic":
            return DynamicScaling(factor=_factor(params), original_context=context_length)
        case "llama3":
            return _llama3(params, _original_context(params, keys, context_length))
        case "yarn":
            return _yarn(params, _original_context(params, keys, context_length), context_length)
        case "longrope":
            return _longrope(params, _original_context(params, keys, context_length), context_length)
    raise params.wrong("rope_type", f"{kind!a} is not one of {', '.join(ROPE_TYPES)}")


def usable_context(rope: RopeConfig | None, keys: Keys, context_length: int) -> int:
    """Return the context length; with LongRoPE, the original one."""
    if rope is not None and isinstance(rope.scaling, FactorScaling):
        return min(context_length, _original_context(rope_section(keys), keys, context_length))
    return context_length


def _factor(params: Keys, default: float | None = None) -> float:
    factor = params.number("factor", default)
    if factor < 1:
        raise params.wrong("factor", f"{factor} is below 1")
    return factor


def _original_context(params: Keys, keys: Keys, context_length: int) -> int:
    name = "original_max_position_embeddings"
    return keys.count(name, params.count(name, context_length, MAX_CONTEXT), MAX_CONTEXT)


def _llama3(params: Keys, original_context: int) -> Llama3Scaling:
    low, high = params.number("low_freq_factor"), params.number("high_freq_factor")
    if not 0 < low < high:
        raise params.wrong("high_freq_factor", f"{high} is not above low_freq_factor {low}, or that is not above 0")
    return Llama3Scaling(
        factor=_factor(params), low_freq_factor=low, high_freq_factor=high, original_context=original_context
    )


def _yarn(params: Keys, original_context: int, context_length: int) -> YarnScaling:
    factor = _factor(params, max(1.0, context_length / original_context))
    return YarnScaling(
        factor=factor,
        original_context=original_context,
        attention_factor=params.number("attention_factor", _yarn_attention_factor(params, factor)),
        beta_fast=_positive(params, "beta_fast", 32.0),
        beta_slow=_positive(params, "beta_slow", 1.0),
        truncate=params.flag("truncate", True),
    )


def _yarn_attention_factor(params: Keys, factor: float) -> float:
    scale, scale_all = params.number("mscale", 0.0), params.number("mscale_all_dim", 0.0)
    if scale and scale_all:
        return yarn_magnitude(factor, scale) / yarn_magnitude(factor, scale_all)
    return yarn_magnitude(factor)


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """Return YaRN's growth of cos and sin with the factor: ``0.1 · scale · ln(factor) + 1``."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _positive(params: Keys, key: str, default: float) -> float:
    value = params.number(key, default) or default
    if value <= 0:
        raise params.wrong(key, f"{value} is not positive")
    return value


def _longrope(params: Keys, original_context: int, context_length: int) -> FactorScaling:
    factor = _factor(params, max(1.0, context_length / original_context))
    grown = math.sqrt(1 + math.log(factor) / math.log(original_context)) if original_context > 1 else 1.0
    factors = params.numbers("short_factor")
    if any(item <= 0 for item in factors):
        raise params.wrong("short_factor", "not all factors are positive")
    return FactorScaling(factors=factors, attention_factor=params.number("attention_factor", grown))


def gguf_rope(metadata: Mapping[str, object], source: WeightSource, architecture: str, basics: Basics) -> RopeConfig:
    """Return the rotary embedding of a GGUF file; stored frequency factors go before a scaling type."""
    keys = gguf_keys(metadata, architecture)
    return RopeConfig(
        theta=keys.number("rope.freq_base", 10_000.0),
        dim=keys.count("rope.dimension_count", basics.head_dim),
        scaling=_stored_factors(keys, source) or _gguf_scaling(keys, basics.context_length),
    )


def gguf_whole_rope(
    metadata: Mapping[str, object], source: WeightSource, architecture: str, basics: Basics
) -> RopeConfig:
    """Return the rotary embedding of an architecture whose rows are paired, which is undone for whole heads only."""
    rope = gguf_rope(metadata, source, architecture, basics)
    if rope.dim != basics.head_dim:
        problem = f"{rope.dim} rotated elements in a head of {basics.head_dim} are not supported here"
        raise gguf_keys(metadata, architecture).wrong("rope.dimension_count", problem)
    return rope


def gguf_usable_context(rope: RopeConfig, metadata: Mapping[str, object], architecture: str, context: int) -> int:
    """Return the context length; with LongRoPE (a file that stores short factors), the original one."""
    if isinstance(rope.scaling, FactorScaling):
        keys = gguf_keys(metadata, architecture)
        return min(context, keys.count("rope.scaling.original_context_length", context, MAX_CONTEXT))
    return context


def _stored_factors(keys: Keys, source: WeightSource) -> FactorScaling | None:
    for name in ("rope_freqs.weight", "rope_factors_short.weight"):
        if name in source.names():
            factors = source.tensor(name, torch.float32).flatten().tolist()
            if not all(0 < item < math.inf for item in factors):
                raise keys.wrong(name, "not all factors are positive and finite")
            scale = keys.number("rope.scaling.attn_factor", 1.0)
            return FactorScaling(factors=tuple(factors), attention_factor=scale)
    return None


def _gguf_scaling(keys: Keys, context_length: int) -> RopeScaling | None:
    kind = keys.text("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if kind == "none" and "rope.scale_linear" not in keys:
        return None
    if factor <= 0:
        raise keys.wrong("rope.scaling.factor", f"{factor} is not positive")
    if kind in ("none", "linear"):
        return LinearScaling(factor=factor) if factor != 1 else None
    if kind == "yarn":
        original = keys.count("rope.scaling.original_context_length", context_length, MAX_CONTEXT)
        scale = keys.number("rope.scaling.attn_factor", 1.0)
        return YarnScaling(factor=factor, original_context=original, attention_factor=scale * yarn_magnitude(factor))
    raise keys.wrong("rope.scaling.type", f"{kind!a} is not one of none, linear, yarn")
