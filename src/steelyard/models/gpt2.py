"""GPT-2: layer norms, learned positions, biases everywhere. Its checkpoints store weights ``[in, out]``."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.models.basics import Basics, gguf_basics, hf_bos, hf_eos
from steelyard.models.config import MAX_CONTEXT, MAX_VOCAB, Activation, LayerConfig, ModelConfig, NormKind
from steelyard.models.family import GGUF_FUSED, Family, GGUFForm, Recipe, WeightMap, recipe
from steelyard.models.keys import Keys
from steelyard.models.weights.source import WeightSource


def gpt2_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = _hf_basics(keys)
    scale = basics.head_dim**-0.5 if keys.flag("scale_attn_weights", True) else 1.0
    by_layer = keys.flag("scale_attn_by_inverse_layer_idx", False)
    scales = tuple(scale / (i + 1) if by_layer else scale for i in range(basics.num_layers))
    return _model(basics, scales)


def _hf_basics(keys: Keys) -> Basics:
    """Return the sizes, which GPT-2 gives under names of its own."""
    hidden_size, num_heads = keys.count("n_embd", 768), keys.count("n_head", 12)
    if hidden_size % num_heads:
        raise keys.wrong("n_head", f"n_embd {hidden_size} is not a multiple of {num_heads} heads")
    vocab_size = keys.count("vocab_size", 50_257, MAX_VOCAB)
    return Basics(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        mlp_size=keys.optional_count("n_inner") or 4 * hidden_size,
        num_layers=keys.num_layers("n_layer", 12),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        context_length=keys.count("n_positions", 1024, MAX_CONTEXT),
        eps=keys.number("layer_norm_epsilon", 1e-5),
        activation=keys.activation("activation_function", "gelu_new"),
        tied=keys.flag("tie_word_embeddings", True),
        bos_token_id=hf_bos(keys, vocab_size, 50_256),
        eos_token_ids=hf_eos(keys, vocab_size, 50_256),
    )


def gpt2_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata describe."""
    basics = gguf_basics(
        metadata, source, "gpt2", eps_key="attention.layer_norm_epsilon", activation=Activation.GELU_TANH
    )
    return _model(basics, (basics.head_dim**-0.5,) * basics.num_layers)


def _model(basics: Basics, scales: tuple[float, ...]) -> ModelConfig:
    layers = tuple(
        LayerConfig(
            attention=basics.attention(None, scale=scale, qkv_bias=True, out_bias=True),
            feed_forward=basics.mlp(gated=False, bias=True),
        )
        for scale in scales
    )
    return basics.model("gpt2", layers, norm=NormKind.LAYER, learned_positions=True)


def _transposed(source: str) -> Recipe:
    return Recipe((source,), transposed=True)


_HF_LAYER = "{base}h.{layer}."
HF_WEIGHTS: WeightMap = {
    "embed": recipe("{base}wte"),
    "positions": recipe("{base}wpe"),
    "norm": recipe("{base}ln_f"),
    "lm_head": recipe("lm_head"),
    "layers.{layer}.attention_norm": recipe(_HF_LAYER + "ln_1"),
    "layers.{layer}.attention.qkv": _transposed(_HF_LAYER + "attn.c_attn"),
    "layers.{layer}.attention.out": _transposed(_HF_LAYER + "attn.c_proj"),
    "layers.{layer}.ffn_norm": recipe(_HF_LAYER + "ln_2"),
    "layers.{layer}.mlp.up": _transposed(_HF_LAYER + "mlp.c_fc"),
    "layers.{layer}.mlp.down": _transposed(_HF_LAYER + "mlp.c_proj"),
}
GGUF_WEIGHTS: WeightMap = {
    **GGUF_FUSED,
    "positions": recipe("position_embd"),
    "layers.{layer}.mlp.up": recipe("blk.{layer}.ffn_up"),
}

GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    model_types=("gpt2",),
    config_from_hf=gpt2_from_hf,
    hf_weights=HF_WEIGHTS,
    bases=("transformer.", ""),
    gguf=GGUFForm(architecture="gpt2", config=gpt2_from_gguf, weights=GGUF_WEIGHTS),
    hf_ignored=(".attn.bias", ".attn.masked_bias"),
)
