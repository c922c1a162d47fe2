"""What nearly every family's description holds: sizes, epsilon, special tokens, from ``config.json`` or GGUF metadata.

A family reads :class:`Basics`, then says in its own file what is particular to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.core.errors import WeightsError
from steelyard.models.config import (
    MAX_CONTEXT,
    MAX_VOCAB,
    Activation,
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormKind,
    Residual,
    RopeConfig,
)
from steelyard.models.keys import Keys
from steelyard.models.weights.source import WeightSource

GGUF_FILE = "GGUF metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class HfDefaults:
    """What Hugging Face takes for keys that a family's ``config.json`` leaves out.

    Attributes:
        num_kv_heads: ``None`` for as many as query heads.
        head_dim: ``None`` for ``hidden_size / num_heads``.
    """

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    context_length: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    eps: float = 1e-6
    activation_key: str = "hidden_act"
    activation: str = "silu"
    tied: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Basics:
    """Sizes and ids that both kinds of files give."""

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    eps: float
    activation: Activation
    tied: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    def attention(self, rope: RopeConfig | None, **particular: Any) -> AttentionConfig:
        """Return a layer's attention; ``particular`` names fields of :class:`AttentionConfig` that differ."""
        common: dict[str, Any] = {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "scale": self.head_dim**-0.5,
            "rope": rope,
        }
        return AttentionConfig(**(common | particular))

    def mlp(self, **particular: Any) -> MlpConfig:
        """Return a dense feed-forward network; ``particular`` names fields of :class:`MlpConfig` that differ."""
        common: dict[str, Any] = {"size": self.mlp_size, "activation": self.activation}
        return MlpConfig(**(common | particular))

    def model(self, family: str, layers: tuple[LayerConfig, ...], **particular: Any) -> ModelConfig:
        """Return the model; ``particular`` names fields of :class:`ModelConfig` that differ."""
        common: dict[str, Any] = {
            "family": family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "max_position_embeddings": self.context_length,
            "norm": NormKind.RMS,
            "norm_eps": self.eps,
            "residual": Residual.PRE,
            "layers": layers,
            "tied_embeddings": self.tied,
            "bos_token_id": self.bos_token_id,
            "eos_token_ids": self.eos_token_ids,
        }
        return ModelConfig(**(common | particular))


def hf_basics(keys: Keys, defaults: HfDefaults) -> Basics:
    """Return what ``config.json`` says, with the family's defaults for what it leaves out."""
    hidden_size = keys.count("hidden_size", defaults.hidden_size)
    num_heads = keys.count("num_attention_heads", defaults.num_heads)
    num_kv_heads = keys.optional_count("num_key_value_heads", defaults.num_kv_heads or num_heads)
    head_dim = keys.optional_count("head_dim", defaults.head_dim)
    if head_dim is None and hidden_size % num_heads:
        raise keys.wrong("num_attention_heads", f"hidden_size {hidden_size} is not a multiple of {num_heads} heads")
    vocab_size = keys.count("vocab_size", defaults.vocab_size, MAX_VOCAB)
    return Basics(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        mlp_size=keys.count("intermediate_size", defaults.mlp_size),
        num_layers=keys.num_layers("num_hidden_layers", defaults.num_layers),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads or num_heads,
        head_dim=head_dim or hidden_size // num_heads,
        context_length=keys.count("max_position_embeddings", defaults.context_length, MAX_CONTEXT),
        eps=keys.number("rms_norm_eps", defaults.eps),
        activation=keys.activation(defaults.activation_key, defaults.activation),
        tied=keys.flag("tie_word_embeddings", defaults.tied),
        bos_token_id=hf_bos(keys, vocab_size, defaults.bos_token_id),
        eos_token_ids=hf_eos(keys, vocab_size, defaults.eos_token_id),
    )


def hf_bos(keys: Keys, vocab_size: int, default: int | None) -> int | None:
    """Return ``bos_token_id``; a default is dropped if the vocabulary is too small for it."""
    usable = () if default is None or default >= vocab_size else (default,)
    return next(iter(keys.integers("bos_token_id", usable)), None)


def hf_eos(keys: Keys, vocab_size: int, default: int | None) -> tuple[int, ...]:
    """Return ``eos_token_id``, one or several; a default is dropped if the vocabulary is too small for it."""
    return keys.integers("eos_token_id", () if default is None or default >= vocab_size else (default,))


def gguf_basics(
    metadata: Mapping[str, object],
    source: WeightSource,
    architecture: str,
    *,
    eps_key: str = "attention.layer_norm_rms_epsilon",
    activation: Activation = Activation.SILU,
) -> Basics:
    """Return what a GGUF file's metadata say; the vocabulary is as large as the embedding matrix."""
    keys, tokens = gguf_keys(metadata, architecture), Keys(metadata, GGUF_FILE, "tokenizer.ggml.")
    hidden_size = keys.count("embedding_length")
    num_heads = keys.count("attention.head_count")
    eos = tokens.optional_integer("eos_token_id")
    return Basics(
        vocab_size=gguf_size(source, "token_embd.weight", 0),
        hidden_size=hidden_size,
        mlp_size=keys.count("feed_forward_length", 1),
        num_layers=keys.num_layers("block_count"),
        num_heads=num_heads,
        num_kv_heads=keys.count("attention.head_count_kv", num_heads),
        head_dim=keys.count("attention.key_length", max(1, hidden_size // num_heads)),
        context_length=keys.count("context_length", most=MAX_CONTEXT),
        eps=keys.number(eps_key),
        activation=activation,
        tied="output.weight" not in source.names(),
        bos_token_id=tokens.optional_integer("bos_token_id"),
        eos_token_ids=() if eos is None else (eos,),
    )


def gguf_keys(metadata: Mapping[str, object], architecture: str) -> Keys:
    """Return the architecture's own keys."""
    return Keys(metadata, GGUF_FILE, architecture + ".")


def gguf_size(source: WeightSource, name: str, dim: int) -> int:
    """Return one dimension of a tensor.

    Raises:
        WeightsError: if the tensor is missing or has fewer dimensions.
    """
    shape = source.shape(name)
    if len(shape) <= dim:
        raise WeightsError(f"its shape is {list(shape)}", field=name, remedy="Download the file again")
    return shape[dim]


def has_bias(source: WeightSource, name: str) -> bool:
    """Return whether the file has a bias ``name``."""
    return name + ".bias" in source.names()
