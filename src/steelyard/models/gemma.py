"""Gemma 2 and the text model of Gemma 3: norms around each half, scaled embeddings, windows in most layers.

Norm weights in Hugging Face's checkpoints are differences from one; GGUF's converter has added it. Gemma 3 rotates
layers with a window by a base of their own. Embedding variants that attend both ways are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.models.basics import Basics, HfDefaults, gguf_basics, gguf_keys, hf_basics
from steelyard.models.config import Activation, LayerConfig, ModelConfig, QKNorm, Residual, RopeConfig
from steelyard.models.family import GGUF_DENSE, HF_DENSE, Family, GGUFForm, WeightMap, recipe, with_plus_one
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, hf_rope, hf_scaling
from steelyard.models.weights.source import WeightSource

GEMMA2_DEFAULTS = HfDefaults(
    vocab_size=256_000, hidden_size=2304, mlp_size=9216, num_layers=26, num_heads=8, num_kv_heads=4, head_dim=256,
    context_length=8192, activation_key="hidden_activation", activation="gelu_pytorch_tanh", tied=True,
    bos_token_id=2, eos_token_id=1,
)  # fmt: skip
GEMMA3_DEFAULTS = HfDefaults(
    vocab_size=262_208, hidden_size=2304, mlp_size=9216, num_layers=26, num_heads=8, num_kv_heads=4, head_dim=256,
    context_length=131_072, activation_key="hidden_activation", activation="gelu_pytorch_tanh", tied=True,
    bos_token_id=2, eos_token_id=1,
)  # fmt: skip
GEMMA2_PATTERN = 2
GEMMA3_PATTERN = 6
LOCAL_THETA = 10_000.0
# The largest models scale scores by the width per head, not by the head's size; GGUF files do not say so.
WIDE_LAYERS: Mapping[str, int] = {"gemma2": 46, "gemma3": 62}


def gemma2_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that a Gemma 2's ``config.json`` describes."""
    basics = hf_basics(keys, GEMMA2_DEFAULTS)
    rope = hf_rope(keys, basics)
    layers = _hf_layers(keys, basics, rope, rope, GEMMA2_PATTERN, keys.optional_number("attn_logit_softcapping", 50.0))
    return _model(basics, "gemma2", layers, keys.optional_number("final_logit_softcapping", 30.0))


def gemma3_from_hf(keys: Keys) -> ModelConfig:
    """Return the text model that a Gemma 3's ``config.json`` describes, under ``text_config`` if there is one."""
    keys = keys.section("text_config") if "text_config" in keys else keys
    basics = hf_basics(keys, GEMMA3_DEFAULTS)
    full, local = _gemma3_ropes(keys, basics)
    pattern = keys.count("sliding_window_pattern", GEMMA3_PATTERN)
    # The reference implementation ignores attn_logit_softcapping in Gemma 3, and released models leave it empty.
    layers = _hf_layers(keys, basics, full, local, pattern, None, qk_norm=QKNorm.PER_HEAD)
    return _model(basics, "gemma3", layers, keys.optional_number("final_logit_softcapping"))


def _gemma3_ropes(keys: Keys, basics: Basics) -> tuple[RopeConfig, RopeConfig]:
    """Return the rotation of layers that see everything, and of those with a window."""
    nested = keys.section("rope_parameters")
    full, local = nested.section("full_attention"), nested.section("sliding_attention")
    scaled = keys.section("rope_scaling") if "rope_scaling" in keys else full
    theta = full.number("rope_theta", keys.number("rope_theta", 1_000_000.0))
    local_theta = local.number("rope_theta", keys.number("rope_local_base_freq", LOCAL_THETA))
    dim, context = basics.head_dim, basics.context_length
    return (
        RopeConfig(theta=theta, dim=dim, scaling=hf_scaling(scaled, keys, context)),
        RopeConfig(theta=local_theta, dim=dim, scaling=hf_scaling(local, keys, context)),
    )


def _hf_layers(
    keys: Keys,
    basics: Basics,
    full: RopeConfig,
    local: RopeConfig,
    pattern: int,
    softcap: float | None,
    qk_norm: QKNorm | None = None,
) -> tuple[LayerConfig, ...]:
    if "use_bidirectional_attention" in keys and keys.flag("use_bidirectional_attention", False):
        raise keys.wrong("use_bidirectional_attention", "a model that attends both ways cannot generate text")
    kinds = keys.layer_types(basics.num_layers)
    slides = [k == "sliding_attention" for k in kinds] if kinds else _slides(basics.num_layers, pattern)
    window, bias = keys.optional_count("sliding_window", 4096), keys.flag("attention_bias", False)
    scale = _scale(keys.number("query_pre_attn_scalar", 256.0), keys)
    return tuple(
        LayerConfig(
            attention=basics.attention(
                local if sliding else full, window=window if sliding else None, scale=scale, softcap=softcap,
                qk_norm=qk_norm, qkv_bias=bias, out_bias=bias,
            ),
            feed_forward=basics.mlp(),
        )
        for sliding in slides
    )  # fmt: skip


def _scale(scalar: float, keys: Keys) -> float:
    if scalar <= 0:
        raise keys.wrong("query_pre_attn_scalar", f"{scalar} is not positive")
    return float(scalar**-0.5)


def _slides(num_layers: int, pattern: int) -> list[bool]:
    """Return for each layer whether it has the window: all but every ``pattern``-th."""
    return [(i + 1) % pattern != 0 for i in range(num_layers)]


def _model(basics: Basics, family: str, layers: tuple[LayerConfig, ...], logit_softcap: float | None) -> ModelConfig:
    scale = basics.hidden_size**0.5
    return basics.model(family, layers, residual=Residual.SANDWICH, embedding_scale=scale, logit_softcap=logit_softcap)


def gemma2_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata of architecture ``gemma2`` describe."""
    basics, keys = _gguf_basics(metadata, source, "gemma2"), gguf_keys(metadata, "gemma2")
    rope = gguf_rope(metadata, source, "gemma2", basics)
    softcap = keys.optional_number("attn_logit_softcapping", 50.0)
    layers = _gguf_layers(basics, keys, "gemma2", (rope, rope), GEMMA2_PATTERN, softcap=softcap)
    return _model(basics, "gemma2", layers, keys.optional_number("final_logit_softcapping", 30.0))


def gemma3_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the text model that GGUF metadata of architecture ``gemma3`` describe."""
    basics, keys = _gguf_basics(metadata, source, "gemma3"), gguf_keys(metadata, "gemma3")
    full = gguf_rope(metadata, source, "gemma3", basics)
    local = RopeConfig(theta=keys.number("rope.freq_base_swa", LOCAL_THETA), dim=full.dim)
    layers = _gguf_layers(basics, keys, "gemma3", (full, local), GEMMA3_PATTERN, qk_norm=QKNorm.PER_HEAD)
    return _model(basics, "gemma3", layers, keys.optional_number("final_logit_softcapping"))


def _gguf_basics(metadata: Mapping[str, object], source: WeightSource, name: str) -> Basics:
    return gguf_basics(metadata, source, name, activation=Activation.GELU_TANH)


def _gguf_layers(
    basics: Basics, keys: Keys, name: str, ropes: tuple[RopeConfig, RopeConfig], pattern: int, **particular: Any
) -> tuple[LayerConfig, ...]:
    wide = basics.num_layers == WIDE_LAYERS[name]
    scale = (basics.hidden_size / basics.num_heads if wide else basics.head_dim) ** -0.5
    window = keys.optional_count("attention.sliding_window", 4096)
    full, local = (basics.attention(rope, scale=scale, **particular) for rope in ropes)
    windowed = basics.attention(local.rope, scale=scale, window=window, **particular)
    layers = [LayerConfig(attention=kind, feed_forward=basics.mlp()) for kind in (full, windowed)]
    return tuple(layers[sliding] for sliding in _slides(basics.num_layers, pattern))


_HF_LAYER = "{base}layers.{layer}."
HF_WEIGHTS: WeightMap = with_plus_one(
    {
        **HF_DENSE,
        "layers.{layer}.attention_post_norm": recipe(_HF_LAYER + "post_attention_layernorm"),
        "layers.{layer}.ffn_norm": recipe(_HF_LAYER + "pre_feedforward_layernorm"),
        "layers.{layer}.ffn_post_norm": recipe(_HF_LAYER + "post_feedforward_layernorm"),
    }
)
GGUF_WEIGHTS: WeightMap = {
    **GGUF_DENSE,
    "layers.{layer}.attention_post_norm": recipe("blk.{layer}.post_attention_norm"),
    "layers.{layer}.ffn_post_norm": recipe("blk.{layer}.post_ffw_norm"),
}

GEMMA2 = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    model_types=("gemma2",),
    config_from_hf=gemma2_from_hf,
    hf_weights=HF_WEIGHTS,
    gguf=GGUFForm(architecture="gemma2", config=gemma2_from_gguf, weights=GGUF_WEIGHTS),
)
GEMMA3 = Family(
    name="gemma3",
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_types=("gemma3_text", "gemma3"),
    config_from_hf=gemma3_from_hf,
    hf_weights=HF_WEIGHTS,
    bases=("model.", "language_model.model.", "model.language_model."),
    gguf=GGUFForm(architecture="gemma3", config=gemma3_from_gguf, weights=GGUF_WEIGHTS),
)
