"""A quantised decoder whose step is one native call: the same network as :class:`~steelyard.models.decoder.Decoder`.

Built from a loaded decoder whose linear layers are quantised. Every operation of its layers is written down once
(:mod:`steelyard.kernels.program`); a step then costs Python one call instead of a dozen per layer. Which decoders can
be written down is :func:`why_not_fused`'s answer; the others run as modules, with the same quantised layers.

Not here: mixtures of experts, layer norms, parallel layers, learned positions, networks without a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from steelyard.kernels.packed_matrix import PackedMatrix
from steelyard.kernels.program import RotaryUse, RotationRows, Rows, StepProgram
from steelyard.kernels.qlinear import Epilogue
from steelyard.models.config import Activation, LayerConfig, MlpConfig, NormKind, QKNorm, Residual, RopeConfig
from steelyard.models.contract import KVAccess, PagedKVAccess
from steelyard.models.decoder import Decoder, SequentialLayer
from steelyard.models.layers import Attention, GatedMlp, RMSNorm
from steelyard.models.quantised import QuantisedEmbedding, QuantisedLinear

_GATES: Mapping[Activation, Epilogue] = {Activation.SILU: "silu", Activation.GELU_TANH: "gelu_tanh"}


def why_not_fused(decoder: Decoder) -> str | None:
    """Return what keeps a decoder from being one native call, or ``None`` if nothing does."""
    config = decoder.config
    if config.norm is not NormKind.RMS or config.residual is Residual.PARALLEL or config.learned_positions:
        return "norms, residuals or positions of another kind"
    if len({layer.attention.num_heads for layer in config.layers}) > 1:
        return "layers with different numbers of heads"
    if not isinstance(decoder.embed, QuantisedEmbedding):
        return "embeddings that are not quantised"
    return next((reason for layer in config.layers if (reason := _why_not_layer(layer))), None) or _why_not_weights(
        decoder
    )


def _why_not_layer(layer: LayerConfig) -> str | None:
    network, attention = layer.feed_forward, layer.attention
    if not isinstance(network, MlpConfig) or not network.gated or network.activation not in _GATES:
        return "a feed-forward network of another kind"
    if attention.qk_norm is QKNorm.FULL or attention.clip_qkv is not None:
        return "queries and keys that are normed whole or clipped"
    return None


def _why_not_weights(decoder: Decoder) -> str | None:
    for name, module in decoder.layers.named_modules():
        if isinstance(module, nn.Linear):
            return f"layers.{name} is not quantised"
        if isinstance(module, GatedMlp) and not cast(QuantisedLinear, module.gate_up).interleaved:
            return f"layers.{name} has a width that panels do not divide"
    return None


class FusedDecoder:
    """A :class:`~steelyard.models.contract.LanguageModel` that runs a decoder's layers as one native program.

    Args:
        decoder: one of which :func:`why_not_fused` says nothing.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._num_heads = decoder.config.layers[0].attention.num_heads
        self._program = write_program(decoder)

    def __call__(self, token_ids: Tensor, positions: Tensor, kv: KVAccess) -> Tensor:
        """See :class:`steelyard.models.contract.LanguageModel`; a cache of another kind is served module by module."""
        if not isinstance(kv, PagedKVAccess):
            hidden: Tensor = self._decoder(token_ids, positions, kv)
            return hidden
        tables = [table.covering(kv.max_context_len) for table in self._decoder.rotary_tables]
        width = self._decoder.config.hidden_size
        return self._program.run(token_ids, kv.plan(self._num_heads), kv.layer_addresses, tables, width)

    def logits(self, hidden: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.LanguageModel.logits`."""
        return self._decoder.logits(hidden)

    @property
    def names_likeliest(self) -> bool:
        """Whether :meth:`likeliest` can be asked."""
        head = self._decoder.lm_head
        return isinstance(head, QuantisedLinear) and head.finds_largest and self._decoder.config.logit_softcap is None

    def likeliest(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest of each row's :meth:`logits`, to the bit, and its token, without the others.

        Args:
            hidden: ``[rows, hidden_size]``.

        Returns:
            ``[rows]`` float32, NaN where a logit is, and ``[rows]`` int64, the lowest id among equals.
        """
        return cast(QuantisedLinear, self._decoder.lm_head).largest(hidden)

    def take_profile(self) -> dict[str, float]:
        """Return seconds spent per kind of operation since the last call."""
        return self._program.take_profile()


def write_program(decoder: Decoder) -> StepProgram:
    """Return the program of a decoder's step."""
    return _Writer(decoder).program


class _Writer:
    """Writes a decoder down; its fields are the buffers that all layers share."""

    def __init__(self, decoder: Decoder) -> None:
        config = decoder.config
        self.program, self.config = StepProgram(), config
        self.rotations: dict[RopeConfig, RotationRows] = {}
        widths = [(layer.attention.q_size, layer.attention.kv_size, _size(layer)) for layer in config.layers]
        q_size, mlp_size = max(q for q, _, _ in widths), max(size for _, _, size in widths)
        self.x = self.program.float_rows(config.hidden_size)
        self.y = self.program.float_rows(config.hidden_size)
        self.qkv = self.program.float_rows(max(q + 2 * kv for q, kv, _ in widths))
        self.attended, self.gated = self.program.float_rows(q_size), self.program.float_rows(mlp_size)
        self.q_x = self.program.quantised_rows(config.hidden_size)
        self.q_attended, self.q_gated = self.program.quantised_rows(q_size), self.program.quantised_rows(mlp_size)
        self._write(decoder)

    def _write(self, decoder: Decoder) -> None:
        embed = cast(QuantisedEmbedding, decoder.embed)
        self.program.embed(embed.packed, self.x, self.config.embedding_scale or 1.0)
        for index, table in enumerate(decoder.rotary_tables):
            self.rotations[table.config] = self.program.gather_rotation(index, table.config.dim)
        for layer in decoder.layers:
            self._write_layer(cast(SequentialLayer, layer))
        self.program.final_norm(self.x, _weight(decoder.norm), self.config.norm_eps)

    def _write_layer(self, layer: SequentialLayer) -> None:
        eps = self.config.norm_eps
        self.program.norm_quantise(self.x, self.q_x, _weight(layer.attention_norm), eps)
        self._write_attention(layer.attention)
        self._write_sum("attention output", layer.attention.out, self.q_attended, layer.attention_post_norm)
        self.program.norm_quantise(self.x, self.q_x, _weight(layer.ffn_norm), eps)
        self._write_mlp(cast(GatedMlp, layer.mlp))
        self._write_sum("MLP down", cast(GatedMlp, layer.mlp).down, self.q_gated, layer.ffn_post_norm)

    def _write_attention(self, attention: Attention) -> None:
        config, spec = attention.config, attention.spec
        packed, bias = _packed(attention.qkv)
        qkv = Rows(self.qkv.buffer, config.q_size + 2 * config.kv_size)
        attended = Rows(self.attended.buffer, config.q_size)
        self.program.project("QKV", packed, self.q_x, qkv, epilogue="store", bias=bias)
        q_norm = None if attention.q_norm is None else attention.q_norm.weight
        k_norm = None if attention.k_norm is None else attention.k_norm.weight
        rotation = None if config.rope is None else self.rotations[config.rope]
        use = RotaryUse(rotation=rotation, q_norm=q_norm, k_norm=k_norm, eps=self.config.norm_eps)
        self.program.rope_write_kv(spec, qkv, use)
        self.program.attend(spec, qkv, attended)
        self.program.quantise(attended, Rows(self.q_attended.buffer, config.q_size))

    def _write_mlp(self, mlp: GatedMlp) -> None:
        layer = cast(QuantisedLinear, mlp.gate_up)
        assert layer.places is not None
        packed, bias = _packed(layer)
        size = layer.out_features // 2
        if bias is not None:
            bias = torch.empty_like(bias).index_copy_(0, layer.places, bias)  # in the order of the packed rows
        gated = Rows(self.gated.buffer, size)
        self.program.project("MLP gate, up", packed, self.q_x, gated, epilogue=_GATES[mlp.activation], bias=bias)
        self.program.quantise(gated, Rows(self.q_gated.buffer, size))

    def _write_sum(self, kind: str, linear: nn.Module, q: Rows, post_norm: nn.Module) -> None:
        """Add a projection to the residual stream, by way of its norm if it has one."""
        packed, bias = _packed(linear)
        rows = Rows(q.buffer, packed.num_inputs)
        if isinstance(post_norm, nn.Identity):
            self.program.project(kind, packed, rows, self.x, epilogue="add", bias=bias)
            return
        self.program.project(kind, packed, rows, self.y, epilogue="store", bias=bias)
        self.program.norm_add(self.y, self.x, _weight(post_norm), self.config.norm_eps)


def _size(layer: LayerConfig) -> int:
    assert isinstance(layer.feed_forward, MlpConfig)
    return layer.feed_forward.size


def _packed(linear: nn.Module) -> tuple[PackedMatrix, Tensor | None]:
    layer = cast(QuantisedLinear, linear)
    return layer.packed, layer.bias


def _weight(norm: nn.Module) -> Tensor:
    return cast(RMSNorm, norm).weight
