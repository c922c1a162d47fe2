"""Llama 2 and 3, SmolLM2, and Mistral: the pre-norm decoder with rotary embedding and gated SiLU.

GGUF's ``llama`` architecture covers all of these and Mixtral; its converter pairs the rotated halves of query and key
rows, which loading undoes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from steelyard.models.basics import HfDefaults, gguf_basics, gguf_keys, hf_basics
from steelyard.models.config import LayerConfig, MlpConfig, ModelConfig, MoeConfig
from steelyard.models.family import GGUF_EXPERTS, HF_DENSE, Family, GGUFForm, RowOrder, WeightMap
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_whole_rope, hf_rope
from steelyard.models.weights.source import WeightSource

LLAMA_DEFAULTS = HfDefaults(
    vocab_size=32_000, hidden_size=4096, mlp_size=11_008, num_layers=32, num_heads=32, context_length=2048,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
MISTRAL_DEFAULTS = HfDefaults(
    vocab_size=32_000, hidden_size=4096, mlp_size=14_336, num_layers=32, num_heads=32, num_kv_heads=8,
    context_length=131_072, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def llama_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Llama's ``config.json`` describes."""
    basics = hf_basics(keys, LLAMA_DEFAULTS)
    bias = keys.flag("attention_bias", False)
    attention = basics.attention(hf_rope(keys, basics), qkv_bias=bias, out_bias=bias)
    layer = LayerConfig(attention=attention, feed_forward=basics.mlp(bias=keys.flag("mlp_bias", False)))
    return basics.model("llama", (layer,) * basics.num_layers)


def mistral_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Mistral's ``config.json`` describes: every layer has the sliding window, or none."""
    basics = hf_basics(keys, MISTRAL_DEFAULTS)
    window = keys.optional_count("sliding_window", 4096)
    layer = LayerConfig(attention=basics.attention(hf_rope(keys, basics), window=window), feed_forward=basics.mlp())
    return basics.model("mistral", (layer,) * basics.num_layers)


def llama_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``llama`` describes, with experts if it has any."""
    basics, keys = gguf_basics(metadata, source, "llama"), gguf_keys(metadata, "llama")
    names = source.names()
    attention = basics.attention(
        gguf_whole_rope(metadata, source, "llama", basics),
        window=keys.optional_count("attention.sliding_window"),
        qkv_bias="blk.0.attn_q.bias" in names,
        out_bias="blk.0.attn_output.bias" in names,
    )
    feed_forward: MlpConfig | MoeConfig = basics.mlp(bias="blk.0.ffn_down.bias" in names)
    if keys.integer("expert_count", 0) > 0:
        feed_forward = MoeConfig(
            num_experts=keys.count("expert_count"),
            top_k=keys.count("expert_used_count"),
            size=basics.mlp_size,
            activation=basics.activation,
            renormalise=True,
        )
    return basics.model("llama", (LayerConfig(attention=attention, feed_forward=feed_forward),) * basics.num_layers)


def with_paired_rows(weights: WeightMap) -> WeightMap:
    """Return the map with query and key rows in GGUF's Llama order."""
    name = "layers.{layer}.attention.qkv"
    return {**weights, name: replace(weights[name], row_orders=(RowOrder.PAIRED, RowOrder.PAIRED))}


LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    model_types=("llama",),
    config_from_hf=llama_from_hf,
    hf_weights=HF_DENSE,
    gguf=GGUFForm(architecture="llama", config=llama_from_gguf, weights=with_paired_rows(GGUF_EXPERTS)),
)
MISTRAL = Family(
    name="mistral",
    architectures=("MistralForCausalLM",),
    model_types=("mistral",),
    config_from_hf=mistral_from_hf,
    hf_weights=HF_DENSE,
)
