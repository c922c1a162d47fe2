"""Qwen2, Qwen2.5 and Qwen3: Llama with biased queries, keys and values (2), or with a norm on each head of them (3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.models.basics import Basics, HfDefaults, gguf_basics, has_bias, hf_basics
from steelyard.models.config import LayerConfig, ModelConfig, QKNorm
from steelyard.models.family import GGUF_DENSE, HF_DENSE, Family, GGUFForm
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, hf_rope
from steelyard.models.weights.source import WeightSource

QWEN2_DEFAULTS = HfDefaults(
    vocab_size=151_936, hidden_size=4096, mlp_size=22_016, num_layers=32, num_heads=32, num_kv_heads=32,
    context_length=32_768,
)  # fmt: skip
QWEN3_DEFAULTS = HfDefaults(
    vocab_size=151_936, hidden_size=4096, mlp_size=22_016, num_layers=32, num_heads=32, num_kv_heads=32,
    head_dim=128, context_length=32_768,
)  # fmt: skip


def windows(keys: Keys, num_layers: int) -> tuple[int | None, ...]:
    """Return each layer's sliding window: as ``layer_types`` says, else from ``max_window_layers`` on."""
    window = keys.optional_count("sliding_window", 4096) if keys.flag("use_sliding_window", False) else None
    kinds = keys.layer_types(num_layers)
    first = keys.integer("max_window_layers", 28)
    slides = [kind == "sliding_attention" for kind in kinds] if kinds else [i >= first for i in range(num_layers)]
    return tuple(window if sliding else None for sliding in slides)


def qwen2_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Qwen2's ``config.json`` describes."""
    basics = hf_basics(keys, QWEN2_DEFAULTS)
    rope = hf_rope(keys, basics)
    return basics.model("qwen2", _layers(basics, keys, rope=rope, qkv_bias=True))


def qwen3_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Qwen3's ``config.json`` describes."""
    basics = hf_basics(keys, QWEN3_DEFAULTS)
    bias = keys.flag("attention_bias", False)
    rope = hf_rope(keys, basics)
    layers = _layers(basics, keys, rope=rope, qk_norm=QKNorm.PER_HEAD, qkv_bias=bias, out_bias=bias)
    return basics.model("qwen3", layers)


def _layers(basics: Basics, keys: Keys, **particular: Any) -> tuple[LayerConfig, ...]:
    return tuple(
        LayerConfig(attention=basics.attention(window=window, **particular), feed_forward=basics.mlp())
        for window in windows(keys, basics.num_layers)
    )


def qwen2_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``qwen2`` describe."""
    return _from_gguf(metadata, source, "qwen2", None)


def qwen3_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``qwen3`` describe."""
    return _from_gguf(metadata, source, "qwen3", QKNorm.PER_HEAD)


def _from_gguf(metadata: Mapping[str, object], source: WeightSource, name: str, qk_norm: QKNorm | None) -> ModelConfig:
    basics = gguf_basics(metadata, source, name)
    attention = basics.attention(
        gguf_rope(metadata, source, name, basics), qk_norm=qk_norm, qkv_bias=has_bias(source, "blk.0.attn_q")
    )
    return basics.model(name, (LayerConfig(attention=attention, feed_forward=basics.mlp()),) * basics.num_layers)


QWEN2 = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    model_types=("qwen2",),
    config_from_hf=qwen2_from_hf,
    hf_weights=HF_DENSE,
    gguf=GGUFForm(architecture="qwen2", config=qwen2_from_gguf, weights=GGUF_DENSE),
)
QWEN3 = Family(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    model_types=("qwen3",),
    config_from_hf=qwen3_from_hf,
    hf_weights=HF_DENSE,
    gguf=GGUFForm(architecture="qwen3", config=qwen3_from_gguf, weights=GGUF_DENSE),
)
