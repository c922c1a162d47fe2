"""SmolLM3: Llama with no rotation in some layers (NoPE, arXiv:2501.18795), every fourth by default."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import starmap

from steelyard.models.basics import HfDefaults, gguf_basics, hf_basics
from steelyard.models.config import LayerConfig, ModelConfig
from steelyard.models.family import GGUF_DENSE, HF_DENSE, Family, GGUFForm
from steelyard.models.keys import Keys
from steelyard.models.llama import with_paired_rows
from steelyard.models.rope_keys import gguf_whole_rope, hf_rope
from steelyard.models.weights.source import WeightSource

DEFAULTS = HfDefaults(
    vocab_size=128_256, hidden_size=2048, mlp_size=11_008, num_layers=36, num_heads=16, num_kv_heads=4,
    context_length=32_768, tied=True, bos_token_id=128_000, eos_token_id=128_001,
)  # fmt: skip
GGUF_INTERVAL = 4


def smollm3_from_hf(keys: Keys) -> ModelConfig:
    """Return the model that ``config.json`` describes."""
    basics = hf_basics(keys, DEFAULTS)
    rope = hf_rope(keys, basics, theta=2_000_000.0)
    bias = keys.flag("attention_bias", False)
    window = keys.optional_count("sliding_window") if keys.flag("use_sliding_window", False) else None
    rotated = _rotated(keys, basics.num_layers)
    kinds = keys.layer_types(basics.num_layers)
    sliding = [kind == "sliding_attention" for kind in kinds] if kinds else [not turned for turned in rotated]

    def layer(turned: bool, slides: bool) -> LayerConfig:
        attention = basics.attention(
            rope if turned else None, window=window if slides else None, qkv_bias=bias, out_bias=bias
        )
        return LayerConfig(attention=attention, feed_forward=basics.mlp(bias=keys.flag("mlp_bias", False)))

    return basics.model("smollm3", tuple(starmap(layer, zip(rotated, sliding, strict=True))))


def _rotated(keys: Keys, num_layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has rotation; in the file, 1 means that it has."""
    given = keys.integers("no_rope_layers")
    if given and len(given) < num_layers:
        raise keys.wrong("no_rope_layers", f"it has {len(given)} entries for {num_layers} layers")
    interval = keys.count("no_rope_layer_interval", 4)
    return tuple(bool(given[i]) if given else (i + 1) % interval != 0 for i in range(num_layers))


def smollm3_from_gguf(metadata: Mapping[str, object], source: WeightSource) -> ModelConfig:
    """Return the model that GGUF metadata describe; the interval of NoPE layers is not among them."""
    basics = gguf_basics(metadata, source, "smollm3")
    rope = gguf_whole_rope(metadata, source, "smollm3", basics)
    layers = tuple(
        LayerConfig(attention=basics.attention(rope if (i + 1) % GGUF_INTERVAL else None), feed_forward=basics.mlp())
        for i in range(basics.num_layers)
    )
    return basics.model("smollm3", layers)


SMOLLM3 = Family(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    model_types=("smollm3",),
    config_from_hf=smollm3_from_hf,
    hf_weights=HF_DENSE,
    gguf=GGUFForm(architecture="smollm3", config=smollm3_from_gguf, weights=with_paired_rows(GGUF_DENSE)),
)
