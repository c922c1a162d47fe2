"""GPT-NeoX and Pythia (arXiv:2204.06745): parallel halves, rotation of a part of each head.

Hugging Face's checkpoints store query, key and value of one head after another; GGUF's converter has put them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from steelyard.models.basics import Basics, HfDefaults, gguf_basics, gguf_keys, hf_basics
from steelyard.models.config import Activation, LayerConfig, ModelConfig, NormKind, Residual, RopeConfig
from steelyard.models.family import GGUF_FUSED, Family, GGUFForm, Recipe, RowOrder, WeightMap, recipe
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import gguf_rope, hf_rope
from steelyard.models.weights.source import WeightSource

DEFAULTS = HfDefaults(
    vocab_size=50_432, hidden_size=6144, mlp_size=24_576, num_layers=44, num_heads=64, context_length=2048,
    activation="gelu", bos_token_id=0, eos_token_id=2,
)  # fmt: skip


def gpt_neox_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = replace(hf_basics(keys, DEFAULTS), eps=keys.number("layer_norm_eps", 1e-5))
    rope = hf_rope(keys, basics, theta_key="rotary_emb_base", partial=0.25, partial_key="rotary_pct")
    parallel, bias = keys.flag("use_parallel_residual", True), keys.flag("attention_bias", True)
    return _model(basics, rope, parallel=parallel, bias=bias)


def gpt_neox_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata describe."""
    basics = gguf_basics(
        metadata, source, "gptneox", eps_key="attention.layer_norm_epsilon", activation=Activation.GELU
    )
    parallel = gguf_keys(metadata, "gptneox").flag("use_parallel_residual", True)
    return _model(basics, gguf_rope(metadata, source, "gptneox", basics), parallel=parallel, bias=True)


def _model(basics: Basics, rope: RopeConfig, *, parallel: bool, bias: bool) -> ModelConfig:
    layer = LayerConfig(
        attention=basics.attention(rope, qkv_bias=bias, out_bias=bias),
        feed_forward=basics.mlp(gated=False, bias=True),
    )
    residual = Residual.PARALLEL if parallel else Residual.PRE
    return basics.model("gpt_neox", (layer,) * basics.num_layers, norm=NormKind.LAYER, residual=residual)


_HF_LAYER = "{base}layers.{layer}."
HF_WEIGHTS: WeightMap = {
    "embed": recipe("{base}embed_in"),
    "norm": recipe("{base}final_layer_norm"),
    "lm_head": recipe("embed_out"),
    "layers.{layer}.attention_norm": recipe(_HF_LAYER + "input_layernorm"),
    "layers.{layer}.attention.qkv": Recipe((_HF_LAYER + "attention.query_key_value",), row_orders=(RowOrder.PER_HEAD,)),
    "layers.{layer}.attention.out": recipe(_HF_LAYER + "attention.dense"),
    "layers.{layer}.ffn_norm": recipe(_HF_LAYER + "post_attention_layernorm"),
    "layers.{layer}.mlp.up": recipe(_HF_LAYER + "mlp.dense_h_to_4h"),
    "layers.{layer}.mlp.down": recipe(_HF_LAYER + "mlp.dense_4h_to_h"),
}
GGUF_WEIGHTS: WeightMap = {**GGUF_FUSED, "layers.{layer}.mlp.up": recipe("blk.{layer}.ffn_up")}

GPT_NEOX = Family(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    model_types=("gpt_neox",),
    config_from_hf=gpt_neox_from_hf,
    hf_weights=HF_WEIGHTS,
    bases=("gpt_neox.",),
    gguf=GGUFForm(architecture="gptneox", config=gpt_neox_from_gguf, weights=GGUF_WEIGHTS),
    hf_ignored=(".inv_freq", ".attention.bias", ".attention.masked_bias"),
)
