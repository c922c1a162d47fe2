"""Phi-3: Llama whose projections are stored fused. Its LongRoPE variants run within the original context."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.models.basics import HfDefaults, gguf_basics, gguf_keys, hf_basics
from steelyard.models.config import LayerConfig, ModelConfig
from steelyard.models.family import GGUF_FUSED, HF_DENSE, Family, GGUFForm, WeightMap, recipe
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, gguf_usable_context, hf_rope, usable_context
from steelyard.models.weights.source import WeightSource

DEFAULTS = HfDefaults(
    vocab_size=32_064, hidden_size=3072, mlp_size=8192, num_layers=32, num_heads=32, context_length=4096, eps=1e-5,
    bos_token_id=1, eos_token_id=32_000,
)  # fmt: skip


def phi3_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = hf_basics(keys, DEFAULTS)
    rope = hf_rope(keys, basics, partial_key="partial_rotary_factor", longrope=True)
    attention = basics.attention(rope, window=keys.optional_count("sliding_window"))
    layers = (LayerConfig(attention=attention, feed_forward=basics.mlp()),) * basics.num_layers
    return basics.model("phi3", layers, max_position_embeddings=usable_context(rope, keys, basics.context_length))


def phi3_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata describe."""
    basics, keys = gguf_basics(metadata, source, "phi3"), gguf_keys(metadata, "phi3")
    rope = gguf_rope(metadata, source, "phi3", basics)
    attention = basics.attention(rope, window=keys.optional_count("attention.sliding_window"))
    layers = (LayerConfig(attention=attention, feed_forward=basics.mlp()),) * basics.num_layers
    context = gguf_usable_context(rope, metadata, "phi3", basics.context_length)
    return basics.model("phi3", layers, max_position_embeddings=context)


_HF_LAYER = "{base}layers.{layer}."
HF_WEIGHTS: WeightMap = {
    **HF_DENSE,
    "layers.{layer}.attention.qkv": recipe(_HF_LAYER + "self_attn.qkv_proj"),
    "layers.{layer}.mlp.gate_up": recipe(_HF_LAYER + "mlp.gate_up_proj"),
}
GGUF_WEIGHTS: WeightMap = {**GGUF_FUSED, "layers.{layer}.mlp.gate_up": recipe("blk.{layer}.ffn_up")}

PHI3 = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    model_types=("phi3",),
    config_from_hf=phi3_from_hf,
    hf_weights=HF_WEIGHTS,
    gguf=GGUFForm(architecture="phi3", config=phi3_from_gguf, weights=GGUF_WEIGHTS),
)
