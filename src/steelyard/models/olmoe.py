"""OLMoE (arXiv:2409.02060): experts in every layer, a norm over all queries (and all keys) at once, clipped QKV."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.models.basics import HfDefaults, gguf_basics, gguf_keys, hf_basics
from steelyard.models.config import MAX_EXPERTS, LayerConfig, ModelConfig, MoeConfig, QKNorm
from steelyard.models.family import GGUF_EXPERTS, HF_EXPERTS, Family, GGUFForm
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, hf_rope
from steelyard.models.weights.source import WeightSource

DEFAULTS = HfDefaults(
    vocab_size=50_304, hidden_size=2048, mlp_size=2048, num_layers=16, num_heads=16, context_length=4096,
    eps=1e-5, eos_token_id=50_279,
)  # fmt: skip


def olmoe_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = hf_basics(keys, DEFAULTS)
    bias = keys.flag("attention_bias", False)
    attention = basics.attention(
        hf_rope(keys, basics),
        qk_norm=QKNorm.FULL,
        qkv_bias=bias,
        out_bias=bias,
        clip_qkv=keys.optional_number("clip_qkv"),
    )
    experts = MoeConfig(
        num_experts=keys.count("num_experts", 64, MAX_EXPERTS),
        top_k=keys.count("num_experts_per_tok", 8),
        size=basics.mlp_size,
        activation=basics.activation,
        renormalise=keys.flag("norm_topk_prob", False),
    )
    return basics.model("olmoe", (LayerConfig(attention=attention, feed_forward=experts),) * basics.num_layers)


def olmoe_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata describe; released ones do not renormalise."""
    basics, keys = gguf_basics(metadata, source, "olmoe"), gguf_keys(metadata, "olmoe")
    attention = basics.attention(
        gguf_rope(metadata, source, "olmoe", basics),
        qk_norm=QKNorm.FULL,
        clip_qkv=keys.optional_number("attention.clamp_kqv"),
    )
    experts = MoeConfig(
        num_experts=keys.count("expert_count"),
        top_k=keys.count("expert_used_count"),
        size=keys.count("expert_feed_forward_length", basics.mlp_size),
        activation=basics.activation,
        renormalise=keys.flag("expert_weights_norm", False),
    )
    return basics.model("olmoe", (LayerConfig(attention=attention, feed_forward=experts),) * basics.num_layers)


OLMOE = Family(
    name="olmoe",
    architectures=("OlmoeForCausalLM",),
    model_types=("olmoe",),
    config_from_hf=olmoe_from_hf,
    hf_weights=HF_EXPERTS,
    gguf=GGUFForm(architecture="olmoe", config=olmoe_from_gguf, weights=GGUF_EXPERTS),
)
