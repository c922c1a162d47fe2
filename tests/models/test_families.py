"""Whatever a configuration file holds, a family makes a sound description of it or refuses it by name."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoints import GPT2_KEYS, SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ModelError, WeightsError
from steelyard.models.config import ModelConfig, MoeConfig, QKNorm, Residual
from steelyard.models.decoder import Decoder
from steelyard.models.families import FAMILIES, family_of_config, gguf_form
from steelyard.models.keys import Keys

WORDS = st.sampled_from(["linear", "dynamic", "llama3", "yarn", "longrope", "default", "silu", "full_attention", "x"])
NUMBERS = st.integers(-2, 200) | st.integers() | st.floats() | st.just(10**400)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
ROPE_KEYS = (
    "rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
    "original_max_position_embeddings", "mscale", "mscale_all_dim", "attention_factor", "truncate", "short_factor",
    "full_attention", "sliding_attention", "partial_rotary_factor",
)  # fmt: skip
ROPES = st.dictionaries(st.sampled_from(ROPE_KEYS), SCALARS | st.lists(NUMBERS, max_size=6), max_size=7)
KEYS = (
    *SIZES, "head_dim", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "hidden_act", "rope_theta",
    "rope_scaling", "rope_parameters", "tie_word_embeddings", "sliding_window", "use_sliding_window", "layer_types",
    "max_window_layers", "no_rope_layers", "no_rope_layer_interval", "query_pre_attn_scalar", "rotary_pct",
    "attn_logit_softcapping", "final_logit_softcapping", "sliding_window_pattern", "num_experts", "clip_qkv",
    "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers",
    "n_embd", "n_head", "n_layer", "n_inner", "n_positions", "activation_function", "text_config", "norm_topk_prob",
    "shared_expert_intermediate_size", "attention_bias", "partial_rotary_factor", "rope_local_base_freq",
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(KEYS), SCALARS | st.lists(SCALARS, max_size=4) | ROPES, max_size=4)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(changes=CHANGES)
def test_any_configuration_is_described_or_refused(name: str, changes: dict[str, object]) -> None:
    values = {key: value for key, value in SIZES.items() if name != "gpt2" or key in GPT2_KEYS} | changes
    outcome = describe(name, values)
    assert isinstance(outcome, ModelConfig) or (outcome.field and outcome.remedy and len(str(outcome)) < 500)


def describe(name: str, values: dict[str, object]) -> ModelConfig | ModelError:
    try:
        return FAMILIES[name].config_from_hf(Keys(values, "config.json"))
    except ModelError as error:
        return error


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_configuration_has_the_familys_defaults(name: str) -> None:
    family = FAMILIES[name]
    config = family.config_from_hf(Keys({}, "config.json"))
    assert config.family == name
    with torch.device("meta"):
        module = Decoder(config) if config.num_layers * _num_experts(config) < 2000 else None
    assert module is None or sum(value.numel() for value in module.parameters()) > 1e8


def _num_experts(config: ModelConfig) -> int:
    feed_forward = config.layers[0].feed_forward
    return feed_forward.num_experts if isinstance(feed_forward, MoeConfig) else 1


def test_the_first_known_architecture_decides() -> None:
    keys = Keys({"architectures": ["Unheard", "Qwen3ForCausalLM"], "model_type": "llama"}, "config.json")
    assert family_of_config(keys).name == "qwen3"
    assert family_of_config(Keys({"model_type": "gemma3_text"}, "config.json")).name == "gemma3"


def test_unknown_ones_are_refused_with_the_known_ones_listed() -> None:
    with pytest.raises(ModelError, match="MixtralForCausalLM"):
        family_of_config(Keys({"architectures": ["T5"], "model_type": "llama"}, "config.json"))
    with pytest.raises(ModelError, match="qwen3moe"):
        gguf_form({"general.architecture": "mamba"})
    with pytest.raises(ModelError):
        gguf_form({})


def test_no_two_families_claim_the_same_files() -> None:
    for attribute in ("architectures", "model_types"):
        claimed = [item for family in FAMILIES.values() for item in getattr(family, attribute)]
        assert len(claimed) == len(set(claimed))
    architectures = [family.gguf.architecture for family in FAMILIES.values() if family.gguf]
    assert len(architectures) == len(set(architectures))


def test_gemma3_reads_the_old_keys_and_a_nested_text_config() -> None:
    old = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    config = FAMILIES["gemma3"].config_from_hf(Keys({"text_config": old | {"num_hidden_layers": 6}}, "config.json"))
    ropes = [layer.attention.rope for layer in config.layers]
    assert [rope.theta for rope in ropes if rope] == [2e4] * 5 + [5e5]
    assert ropes[5] is not None
    assert ropes[5].scaling is not None
    assert config.residual is Residual.SANDWICH
    assert config.layers[0].attention.qk_norm is QKNorm.PER_HEAD


def test_longrope_is_limited_to_the_original_context_and_refused_elsewhere() -> None:
    scaling = {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    values = {"rope_scaling": scaling, "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}
    assert FAMILIES["phi3"].config_from_hf(Keys(values, "config.json")).max_position_embeddings == 4096
    with pytest.raises(ModelError, match="longrope"):
        FAMILIES["llama"].config_from_hf(Keys(values | {"head_dim": 96}, "config.json"))


def test_embeddings_that_attend_both_ways_are_refused() -> None:
    with pytest.raises(ModelError, match="both ways"):
        FAMILIES["gemma3"].config_from_hf(Keys({"use_bidirectional_attention": True}, "config.json"))


def test_errors_show_untrusted_values_short_and_printable() -> None:
    values = json.loads('{"hidden_size": "\\u001b[31m' + "a" * 1000 + '"}')
    with pytest.raises(ModelError) as caught:
        FAMILIES["llama"].config_from_hf(Keys(values, "config.json"))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


class Shapes:
    """A weight source of which only shapes are asked."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def names(self) -> frozenset[str]:
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise WeightsError("missing", field=name, remedy="Look again")
        return self._shapes[name]


GGUF_KEYS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
    "attention.layer_norm_epsilon", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.freq_base_swa",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor", "expert_count", "expert_used_count",
    "expert_feed_forward_length", "attention.sliding_window", "final_logit_softcapping", "use_parallel_residual",
)  # fmt: skip
GGUF_SIZES = {
    "block_count": 3, "context_length": 128, "embedding_length": 48, "feed_forward_length": 80,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5, "expert_count": 4, "expert_used_count": 2,
}  # fmt: skip
GGUF_FAMILIES = [name for name, family in FAMILIES.items() if family.gguf is not None]


@pytest.mark.parametrize("name", GGUF_FAMILIES)
@settings(max_examples=100, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(GGUF_KEYS), SCALARS | st.lists(NUMBERS, max_size=3), max_size=3))
def test_any_metadata_are_described_or_refused(name: str, changes: dict[str, object]) -> None:
    form = FAMILIES[name].gguf
    assert form is not None
    metadata = {f"{form.architecture}.{key}": value for key, value in (GGUF_SIZES | changes).items()}
    source = Shapes({"token_embd.weight": (96, 48), "blk.0.ffn_up_exps.weight": (4, 32, 48)})
    assert isinstance(form.config({f"{form.architecture}.{k}": v for k, v in GGUF_SIZES.items()}, source), ModelConfig)
    try:
        outcome: object = form.config(metadata, source)
    except ModelError as error:
        outcome = error
    assert isinstance(outcome, ModelConfig | ModelError)


def test_paired_rows_need_whole_heads() -> None:
    form = FAMILIES["llama"].gguf
    assert form is not None
    metadata = {f"llama.{key}": value for key, value in (GGUF_SIZES | {"rope.dimension_count": 6}).items()}
    with pytest.raises(ModelError, match="dimension_count"):
        form.config(metadata, Shapes({"token_embd.weight": (96, 48)}))
