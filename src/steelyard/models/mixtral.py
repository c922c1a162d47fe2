"""Mixtral: Mistral with experts (arXiv:2401.04088). GGUF files of it are of architecture ``llama``; see ``llama``."""

from __future__ import annotations

from steelyard.models.basics import HfDefaults, hf_basics
from steelyard.models.config import MAX_EXPERTS, LayerConfig, ModelConfig, MoeConfig
from steelyard.models.family import HF_DENSE, Family, WeightMap, recipe
from steelyard.models.keys import Keys
from steelyard.models.rope_keys import hf_rope

DEFAULTS = HfDefaults(
    vocab_size=32_000, hidden_size=4096, mlp_size=14_336, num_layers=32, num_heads=32, num_kv_heads=8,
    context_length=131_072, eps=1e-5, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def mixtral_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = hf_basics(keys, DEFAULTS)
    attention = basics.attention(hf_rope(keys, basics, theta=1_000_000.0), window=keys.optional_count("sliding_window"))
    experts = MoeConfig(
        num_experts=keys.count("num_local_experts", 8, MAX_EXPERTS),
        top_k=keys.count("num_experts_per_tok", 2),
        size=basics.mlp_size,
        activation=basics.activation,
        renormalise=True,
    )
    return basics.model("mixtral", (LayerConfig(attention=attention, feed_forward=experts),) * basics.num_layers)


_SPARSE = "{base}layers.{layer}.block_sparse_moe."
HF_WEIGHTS: WeightMap = {
    **HF_DENSE,
    "layers.{layer}.mlp.router": recipe(_SPARSE + "gate"),
    "layers.{layer}.mlp.experts.{expert}.gate_up": recipe(
        _SPARSE + "experts.{expert}.w1", _SPARSE + "experts.{expert}.w3"
    ),
    "layers.{layer}.mlp.experts.{expert}.down": recipe(_SPARSE + "experts.{expert}.w2"),
}

MIXTRAL = Family(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    model_types=("mixtral",),
    config_from_hf=mixtral_from_hf,
    hf_weights=HF_WEIGHTS,
)
