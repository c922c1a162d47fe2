"""Sizes counted from a description, against the decoder built from it."""

from dataclasses import replace

import pytest
import torch

from steelyard.core.errors import InputError
from steelyard.models.config import (
    Activation,
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    MoeConfig,
    NormKind,
    QKNorm,
    Residual,
)
from steelyard.models.decoder import Decoder
from steelyard.plan.footprint import StoredFormat, footprint_from_config, layer_params, norm_params

ATTENTION = AttentionConfig(num_heads=6, num_kv_heads=2, head_dim=8, scale=1.0, rope=None)
MLP = MlpConfig(size=40, activation=Activation.SILU)
MOE = MoeConfig(num_experts=5, top_k=2, size=12, activation=Activation.SILU, renormalise=True)


def _config(attention=ATTENTION, feed_forward=MLP, num_layers=3, **changes):
    layer = LayerConfig(attention=attention, feed_forward=feed_forward)
    values = {
        "family": "test", "vocab_size": 101, "hidden_size": 32, "max_position_embeddings": 64, "norm": NormKind.RMS,
        "norm_eps": 1e-5, "residual": Residual.PRE, "layers": (layer,) * num_layers,
    }  # fmt: skip
    return ModelConfig(**{**values, **changes})


CONFIGS = {
    "plain": _config(),
    "tied": _config(tied_embeddings=True),
    "sandwich, query and key norms per head": _config(
        replace(ATTENTION, qk_norm=QKNorm.PER_HEAD, window=7), residual=Residual.SANDWICH
    ),
    "full query and key norms": _config(replace(ATTENTION, qk_norm=QKNorm.FULL)),
    "biases, learned positions, layer norms": _config(
        replace(ATTENTION, qkv_bias=True, out_bias=True, num_kv_heads=6),
        MlpConfig(size=40, activation=Activation.GELU, gated=False, bias=True),
        norm=NormKind.LAYER,
        learned_positions=True,
        lm_head_bias=True,
    ),
    "parallel": _config(residual=Residual.PARALLEL, norm=NormKind.LAYER),
    "gated with biases": _config(feed_forward=replace(MLP, bias=True)),
    "mixture": _config(feed_forward=MOE),
    "mixture with a shared expert": _config(feed_forward=replace(MOE, shared_size=24)),
    "layers that differ": replace(
        _config(),
        layers=(
            LayerConfig(attention=ATTENTION, feed_forward=MOE),
            LayerConfig(attention=replace(ATTENTION, num_kv_heads=3), feed_forward=MLP),
        ),
    ),
}


class _Source:
    """The three questions that a footprint asks of weights."""

    TENSORS = {"a": ("Q4_1", 100), "b": ("F32", 30), "c": ("Q4_1", 11), "d": ("Q8_0", 30)}  # noqa: RUF012

    def names(self):
        return frozenset(self.TENSORS)

    def format(self, name):
        return self.TENSORS[name][0]

    def num_bytes(self, name):
        return self.TENSORS[name][1]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_parameters_are_counted_as_the_decoder_has_them(config):
    with torch.device("meta"):
        module = Decoder(config)
    footprint = footprint_from_config(config, None, name="m")
    assert footprint.num_params == sum(parameter.numel() for parameter in module.parameters())
    embeddings = (module.embed, module.positions) if module.positions is not None else (module.embed,)
    assert footprint.embedding_params == sum(part.weight.numel() for part in embeddings)
    assert footprint.head_params == sum(parameter.numel() for parameter in module.lm_head.parameters())
    for layer, built in zip(config.layers, module.layers, strict=True):
        assert layer_params(config, layer) == sum(parameter.numel() for parameter in built.parameters())
    assert norm_params(config) == sum(parameter.numel() for parameter in module.norm.parameters())


def test_kv_cache_and_groups():
    footprint = footprint_from_config(CONFIGS["layers that differ"], None, name="m")
    assert footprint.kv_elements_per_token == 2 * 8 * (2 + 3)
    assert footprint.kv_elements_per_layer == 2 * 8 * 3
    assert footprint.heads_per_kv_head == 3
    assert footprint.max_context == 64


def test_a_sliding_window_saves_nothing():
    """The engine keeps the whole context of every layer, and the footprint says so."""
    windowed = _config(replace(ATTENTION, window=4))
    assert footprint_from_config(windowed, None, name="m") == footprint_from_config(_config(), None, name="m")


def test_activations_cover_the_feed_forward_network():
    small, large = (
        footprint_from_config(_config(feed_forward=replace(MLP, size=size)), None, name="m") for size in (40, 4000)
    )
    assert large.activation_elements_per_token >= 3 * 4000
    assert small.activation_elements_per_token < large.activation_elements_per_token


def test_stored_formats_are_summed_largest_first():
    footprint = footprint_from_config(_config(), _Source(), name="m")
    assert footprint.stored == (StoredFormat("Q4_1", 111), StoredFormat("F32", 30), StoredFormat("Q8_0", 30))
    assert footprint.stored_bytes == 171
    assert footprint_from_config(_config(), None, name="m").stored_bytes == 0


def test_impossible_sizes_are_refused():
    footprint = footprint_from_config(_config(), None, name="m")
    with pytest.raises(InputError, match="layer_params"):
        replace(footprint, layer_params=0)
