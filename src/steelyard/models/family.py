"""What a family of models is: how its files describe it, and where its parameters lie in them.

A parameter's canonical name is its path in :class:`~steelyard.models.decoder.Decoder`, with layer and expert indices
left open (``layers.{layer}.attention.qkv``). A :class:`Recipe` says which tensors of a file it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from steelyard.models.config import ModelConfig
from steelyard.models.keys import Keys
from steelyard.models.weights.source import WeightSource


class RowOrder(Enum):
    """Order of a projection's rows in a file, where it is not head after head with rotated halves.

    PAIRED: in each head, element ``i`` of the first half is followed by element ``i`` of the second (GGUF, Llama).
    PER_HEAD: query, key and value of one head are followed by those of the next (GPT-NeoX).
    """

    PLAIN = "plain"
    PAIRED = "paired"
    PER_HEAD = "per_head"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a parameter is made from tensors.

    Attributes:
        sources: names without ``.weight`` or ``.bias``, with ``{base}``, ``{layer}`` and ``{expert}`` left open; the
            tensors are stacked row-wise.
        stacked: the tensors hold all experts, along a first dimension of their own.
        transposed: weights are stored ``[in, out]``.
        plus_one: the file stores what the weight differs from one by.
        row_orders: of each source; those left out are plain.
    """

    sources: tuple[str, ...]
    stacked: bool = False
    transposed: bool = False
    plus_one: bool = False
    row_orders: tuple[RowOrder, ...] = ()

    def row_order(self, index: int) -> RowOrder:
        """Return the row order of source ``index``."""
        return self.row_orders[index] if index < len(self.row_orders) else RowOrder.PLAIN


WeightMap = Mapping[str, Recipe]


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFForm:
    """A family in GGUF files.

    Attributes:
        architecture: value of ``general.architecture``.
        config: from the metadata and the tensors' shapes.
    """

    architecture: str
    config: Callable[[Mapping[str, object], WeightSource], ModelConfig]
    weights: WeightMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that share a description and a layout of weights.

    Attributes:
        architectures: entries of ``architectures`` in ``config.json``.
        model_types: values of ``model_type`` in ``config.json``.
        config_from_hf: from ``config.json``.
        hf_weights: in Hugging Face's checkpoints.
        bases: what ``{base}`` may stand for there; the first that fits is taken.
        gguf: ``None`` if GGUF knows no such family, or knows it under another's name.
        hf_ignored: endings of tensors there that are no parameters, such as stored masks.
    """

    name: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    config_from_hf: Callable[[Keys], ModelConfig]
    hf_weights: WeightMap
    bases: tuple[str, ...] = ("model.",)
    gguf: GGUFForm | None = None
    hf_ignored: tuple[str, ...] = (".inv_freq",)


def recipe(*sources: str) -> Recipe:
    """Return the plain recipe of ``sources``."""
    return Recipe(sources)


def with_plus_one(weights: WeightMap) -> WeightMap:
    """Return the map with every norm stored as its difference from one (Gemma)."""
    return {name: replace(made, plus_one=True) if name.endswith("norm") else made for name, made in weights.items()}


_HF_LAYER = "{base}layers.{layer}."
HF_DENSE: WeightMap = {
    "embed": recipe("{base}embed_tokens"),
    "norm": recipe("{base}norm"),
    "lm_head": recipe("lm_head"),
    "layers.{layer}.attention_norm": recipe(_HF_LAYER + "input_layernorm"),
    "layers.{layer}.attention.qkv": recipe(
        _HF_LAYER + "self_attn.q_proj", _HF_LAYER + "self_attn.k_proj", _HF_LAYER + "self_attn.v_proj"
    ),
    "layers.{layer}.attention.q_norm": recipe(_HF_LAYER + "self_attn.q_norm"),
    "layers.{layer}.attention.k_norm": recipe(_HF_LAYER + "self_attn.k_norm"),
    "layers.{layer}.attention.out": recipe(_HF_LAYER + "self_attn.o_proj"),
    "layers.{layer}.ffn_norm": recipe(_HF_LAYER + "post_attention_layernorm"),
    "layers.{layer}.mlp.gate_up": recipe(_HF_LAYER + "mlp.gate_proj", _HF_LAYER + "mlp.up_proj"),
    "layers.{layer}.mlp.down": recipe(_HF_LAYER + "mlp.down_proj"),
}

_HF_EXPERT = _HF_LAYER + "mlp.experts.{expert}."
HF_EXPERTS: WeightMap = {
    **HF_DENSE,
    "layers.{layer}.mlp.router": recipe(_HF_LAYER + "mlp.gate"),
    "layers.{layer}.mlp.experts.{expert}.gate_up": recipe(_HF_EXPERT + "gate_proj", _HF_EXPERT + "up_proj"),
    "layers.{layer}.mlp.experts.{expert}.down": recipe(_HF_EXPERT + "down_proj"),
    "layers.{layer}.mlp.shared.gate_up": recipe(
        _HF_LAYER + "mlp.shared_expert.gate_proj", _HF_LAYER + "mlp.shared_expert.up_proj"
    ),
    "layers.{layer}.mlp.shared.down": recipe(_HF_LAYER + "mlp.shared_expert.down_proj"),
    "layers.{layer}.mlp.shared_gate": recipe(_HF_LAYER + "mlp.shared_expert_gate"),
}

_BLOCK = "blk.{layer}."
GGUF_DENSE: WeightMap = {
    "embed": recipe("token_embd"),
    "norm": recipe("output_norm"),
    "lm_head": recipe("output"),
    "layers.{layer}.attention_norm": recipe(_BLOCK + "attn_norm"),
    "layers.{layer}.attention.qkv": recipe(_BLOCK + "attn_q", _BLOCK + "attn_k", _BLOCK + "attn_v"),
    "layers.{layer}.attention.q_norm": recipe(_BLOCK + "attn_q_norm"),
    "layers.{layer}.attention.k_norm": recipe(_BLOCK + "attn_k_norm"),
    "layers.{layer}.attention.out": recipe(_BLOCK + "attn_output"),
    "layers.{layer}.ffn_norm": recipe(_BLOCK + "ffn_norm"),
    "layers.{layer}.mlp.gate_up": recipe(_BLOCK + "ffn_gate", _BLOCK + "ffn_up"),
    "layers.{layer}.mlp.down": recipe(_BLOCK + "ffn_down"),
}

GGUF_EXPERTS: WeightMap = {
    **GGUF_DENSE,
    "layers.{layer}.mlp.router": recipe(_BLOCK + "ffn_gate_inp"),
    "layers.{layer}.mlp.experts.{expert}.gate_up": Recipe(
        (_BLOCK + "ffn_gate_exps", _BLOCK + "ffn_up_exps"), stacked=True
    ),
    "layers.{layer}.mlp.experts.{expert}.down": Recipe((_BLOCK + "ffn_down_exps",), stacked=True),
    "layers.{layer}.mlp.shared.gate_up": recipe(_BLOCK + "ffn_gate_shexp", _BLOCK + "ffn_up_shexp"),
    "layers.{layer}.mlp.shared.down": recipe(_BLOCK + "ffn_down_shexp"),
    "layers.{layer}.mlp.shared_gate": recipe(_BLOCK + "ffn_gate_inp_shexp"),
}

# One projection for queries, keys and values, as GPT-2, GPT-NeoX and Phi-3 are stored.
GGUF_FUSED: WeightMap = {**GGUF_DENSE, "layers.{layer}.attention.qkv": recipe(_BLOCK + "attn_qkv")}
