"""Qwen2-MoE and Qwen3-MoE: Qwen with experts in all layers or some, and in Qwen2-MoE a shared expert."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.models.basics import Basics, HfDefaults, gguf_basics, gguf_keys, gguf_size, has_bias, hf_basics
from steelyard.models.config import MAX_EXPERTS, LayerConfig, MlpConfig, ModelConfig, MoeConfig, QKNorm
from steelyard.models.family import GGUF_EXPERTS, HF_EXPERTS, Family, GGUFForm
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, hf_rope
from steelyard.models.weights.source import WeightSource

QWEN2_MOE_DEFAULTS = HfDefaults(
    vocab_size=151_936, hidden_size=2048, mlp_size=5632, num_layers=24, num_heads=16, num_kv_heads=16,
    context_length=32_768,
)  # fmt: skip
QWEN3_MOE_DEFAULTS = HfDefaults(
    vocab_size=151_936, hidden_size=2048, mlp_size=6144, num_layers=24, num_heads=32, num_kv_heads=4,
    context_length=32_768,
)  # fmt: skip


def qwen2_moe_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Qwen2-MoE's ``config.json`` describes."""
    basics = hf_basics(keys, QWEN2_MOE_DEFAULTS)
    rope, bias = hf_rope(keys, basics), keys.flag("qkv_bias", True)
    shared = keys.count("shared_expert_intermediate_size", 5632)
    experts = _experts(keys, basics, num_experts=60, top_k=4, size=1408, shared_size=shared)
    layers = tuple(
        LayerConfig(attention=basics.attention(rope, qkv_bias=bias, window=window), feed_forward=feed_forward)
        for window, feed_forward in zip(
            _qwen2_moe_windows(keys, basics.num_layers), _feed_forwards(keys, basics, experts), strict=True
        )
    )
    return basics.model("qwen2_moe", layers)


def qwen3_moe_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Qwen3-MoE's ``config.json`` describes; its sliding window, if used, is every layer's."""
    basics = hf_basics(keys, QWEN3_MOE_DEFAULTS)
    bias = keys.flag("attention_bias", False)
    window = keys.optional_count("sliding_window", 4096) if keys.flag("use_sliding_window", False) else None
    attention = basics.attention(
        hf_rope(keys, basics), qk_norm=QKNorm.PER_HEAD, qkv_bias=bias, out_bias=bias, window=window
    )
    experts = _experts(keys, basics, num_experts=128, top_k=8, size=768)
    layers = (LayerConfig(attention=attention, feed_forward=f) for f in _feed_forwards(keys, basics, experts))
    return basics.model("qwen3_moe", tuple(layers))


def _experts(
    keys: Keys, basics: Basics, *, num_experts: int, top_k: int, size: int, shared_size: int | None = None
) -> MoeConfig:
    key = "num_local_experts" if "num_local_experts" in keys else "num_experts"
    return MoeConfig(
        num_experts=keys.count(key, num_experts, MAX_EXPERTS),
        top_k=keys.count("num_experts_per_tok", top_k),
        size=keys.count("moe_intermediate_size", size),
        activation=basics.activation,
        renormalise=keys.flag("norm_topk_prob", False),
        shared_size=shared_size,
    )


def _feed_forwards(keys: Keys, basics: Basics, experts: MoeConfig) -> tuple[MlpConfig | MoeConfig, ...]:
    """Return each layer's feed-forward network: experts in every ``decoder_sparse_step``-th, unless listed as dense."""
    dense, step = frozenset(keys.integers("mlp_only_layers")), keys.count("decoder_sparse_step", 1)
    return tuple(experts if i not in dense and (i + 1) % step == 0 else basics.mlp() for i in range(basics.num_layers))


def _qwen2_moe_windows(keys: Keys, num_layers: int) -> tuple[int | None, ...]:
    """Return each layer's window; without ``layer_types``, every other of the first ``max_window_layers`` has it."""
    window = keys.optional_count("sliding_window", 4096) if keys.flag("use_sliding_window", False) else None
    kinds, last = keys.layer_types(num_layers), keys.integer("max_window_layers", 28)
    slides = (
        [k == "sliding_attention" for k in kinds] if kinds else [i % 2 == 0 and i < last for i in range(num_layers)]
    )
    return tuple(window if sliding else None for sliding in slides)


def qwen2_moe_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``qwen2moe`` describe."""
    return _from_gguf(metadata, source, "qwen2moe", None)


def qwen3_moe_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``qwen3moe`` describe; released ones renormalise."""
    return _from_gguf(metadata, source, "qwen3moe", QKNorm.PER_HEAD)


def _from_gguf(metadata: Mapping[str, object], source: WeightSource, name: str, qk_norm: QKNorm | None) -> ModelConfig:
    basics, keys = gguf_basics(metadata, source, name), gguf_keys(metadata, name)
    attention = basics.attention(
        gguf_rope(metadata, source, name, basics), qk_norm=qk_norm, qkv_bias=has_bias(source, "blk.0.attn_q")
    )
    shared = "blk.0.ffn_up_shexp.weight"
    experts = MoeConfig(
        num_experts=keys.count("expert_count"),
        top_k=keys.count("expert_used_count"),
        size=keys.count("expert_feed_forward_length", gguf_size(source, "blk.0.ffn_up_exps.weight", 1)),
        activation=basics.activation,
        renormalise=keys.flag("expert_weights_norm", name == "qwen3moe"),
        shared_size=gguf_size(source, shared, 0) if shared in source.names() else None,
    )
    return basics.model(name, (LayerConfig(attention=attention, feed_forward=experts),) * basics.num_layers)


QWEN2_MOE = Family(
    name="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    model_types=("qwen2_moe",),
    config_from_hf=qwen2_moe_from_hf,
    hf_weights=HF_EXPERTS,
    gguf=GGUFForm(architecture="qwen2moe", config=qwen2_moe_from_gguf, weights=GGUF_EXPERTS),
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    model_types=("qwen3_moe",),
    config_from_hf=qwen3_moe_from_hf,
    hf_weights=HF_EXPERTS,
    gguf=GGUFForm(architecture="qwen3moe", config=qwen3_moe_from_gguf, weights=GGUF_EXPERTS),
)
