"""The one description of a decoder: frozen dataclasses that every family's configuration file is turned into.

Each class checks itself when made, so a configuration that exists describes a network that can be built. Errors name
the key as ``config.json`` spells it. Not here: reading files (``keys``, the families), computing (``decoder``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from steelyard.core.errors import ModelError

MAX_LAYERS = 1000
MAX_EXPERTS = 4096
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_CONTEXT = 1 << 27

_REMEDY = "Check that the file belongs to this model, or download it again"


class NormKind(Enum):
    """How rows are normalised."""

    RMS = "rms"
    LAYER = "layer"


class Residual(Enum):
    """Where norms and sums stand in a layer.

    PRE: norm before each half. SANDWICH: norms before and after each half. PARALLEL: both halves read the layer's
    input and are added to it together.
    """

    PRE = "pre"
    SANDWICH = "sandwich"
    PARALLEL = "parallel"


class QKNorm(Enum):
    """RMS norm of queries and keys: each head by itself, or the whole projected row at once."""

    PER_HEAD = "per_head"
    FULL = "full"


class Activation(Enum):
    """Non-linearity of a feed-forward network."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Positions divided by ``factor``."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicScaling:
    """NTK scaling that begins beyond ``original_context`` tokens and grows with the position."""

    factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies divided by ``factor``, high ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): a ramp between kept and divided frequencies; cos and sin times ``attention_factor``."""

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency divided by its own factor (LongRoPE; GGUF's stored form of Llama 3 scaling)."""

    factors: tuple[float, ...]
    attention_factor: float = 1.0


RopeScaling: TypeAlias = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | FactorScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        theta: base of the wavelengths.
        dim: leading elements of each head that are rotated, halves paired; even.
        scaling: how the frequencies are changed for long contexts; ``None`` for not at all.
    """

    theta: float
    dim: int
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        _require(self.theta > 1, "rope_theta", f"{self.theta} is not above 1")
        _require(self.dim >= 2 and self.dim % 2 == 0, "partial_rotary_factor", f"{self.dim} elements cannot be paired")
        if isinstance(self.scaling, FactorScaling):
            _require(
                len(self.scaling.factors) == self.dim // 2,
                "rope_scaling",
                f"{len(self.scaling.factors)} factors given for {self.dim // 2} frequencies",
            )
        if isinstance(self.scaling, DynamicScaling):
            _require(self.dim > 2, "rope_scaling", "dynamic scaling needs more than two rotated elements")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """One layer's attention.

    Attributes:
        scale: factor on ``q·k``.
        window: a token sees itself and the ``window − 1`` before it; ``None`` for all.
        softcap: of the scores; ``None`` for none.
        qk_norm: RMS norm of queries and keys before rotation, with the layer's epsilon; ``None`` for none.
        qkv_bias: whether the fused projection has a bias.
        out_bias: whether the output projection has a bias.
        clip_qkv: queries, keys and values are clamped to ± this; ``None`` for not.
        rope: ``None`` for a layer without rotation.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeConfig | None
    window: int | None = None
    softcap: float | None = None
    qk_norm: QKNorm | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    clip_qkv: float | None = None

    def __post_init__(self) -> None:
        _count(self.num_heads, "num_attention_heads")
        _count(self.num_kv_heads, "num_key_value_heads")
        _count(self.head_dim, "head_dim")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "num_key_value_heads",
            f"{self.num_heads} query heads cannot be shared out over {self.num_kv_heads} key/value heads",
        )
        _require(self.window is None or self.window > 0, "sliding_window", f"{self.window} is not positive")
        _require(self.softcap is None or self.softcap > 0, "attn_logit_softcapping", f"{self.softcap} is not positive")
        _require(self.clip_qkv is None or self.clip_qkv > 0, "clip_qkv", f"{self.clip_qkv} is not positive")
        _require(
            self.rope is None or self.rope.dim <= self.head_dim,
            "partial_rotary_factor",
            f"{self.rope and self.rope.dim} rotated elements in a head of {self.head_dim}",
        )

    @property
    def q_size(self) -> int:
        """Elements of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of all key heads, or of all value heads."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """A dense feed-forward network: ``down(act(gate) · up)`` if gated, else ``down(act(up))``."""

    size: int
    activation: Activation
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        _count(self.size, "intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """A mixture of gated experts.

    Attributes:
        num_experts: experts to choose from.
        top_k: experts computed per token.
        size: inner size of an expert.
        renormalise: whether the chosen experts' weights are scaled to sum to one.
        shared_size: inner size of an expert that every token passes, behind a sigmoid gate; ``None`` for none.
    """

    num_experts: int
    top_k: int
    size: int
    activation: Activation
    renormalise: bool
    shared_size: int | None = None

    def __post_init__(self) -> None:
        _count(self.num_experts, "num_experts", MAX_EXPERTS)
        _count(self.top_k, "num_experts_per_tok", self.num_experts)
        _count(self.size, "moe_intermediate_size")
        if self.shared_size is not None:
            _count(self.shared_size, "shared_expert_intermediate_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """One decoder layer."""

    attention: AttentionConfig
    feed_forward: MlpConfig | MoeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder-only language model.

    Attributes:
        max_position_embeddings: context length it was made for, tokens.
        norm_eps: epsilon of every norm.
        embedding_scale: factor on the embeddings, rounded to the model's dtype; ``None`` for none.
        tied_embeddings: whether the output projection is the embedding matrix.
        logit_softcap: logits become ``cap · tanh(logit / cap)``; ``None`` for not.
        learned_positions: whether an embedding per position is added to the tokens'.
        eos_token_ids: tokens that end a text, as the configuration gives them.
    """

    family: str
    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    norm: NormKind
    norm_eps: float
    residual: Residual
    layers: tuple[LayerConfig, ...]
    embedding_scale: float | None = None
    tied_embeddings: bool = False
    logit_softcap: float | None = None
    lm_head_bias: bool = False
    learned_positions: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _count(self.vocab_size, "vocab_size", MAX_VOCAB)
        _count(self.hidden_size, "hidden_size")
        _count(self.max_position_embeddings, "max_position_embeddings", MAX_CONTEXT)
        _count(len(self.layers), "num_hidden_layers", MAX_LAYERS)
        _require(0 < self.norm_eps < 1, "rms_norm_eps", f"{self.norm_eps} is not between 0 and 1")
        cap = self.logit_softcap
        _require(cap is None or cap > 0, "final_logit_softcapping", f"{cap} is not positive")
        for key, token in self._special_tokens():
            _require(0 <= token < self.vocab_size, key, f"{token} is not in a vocabulary of {self.vocab_size}")

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    def _special_tokens(self) -> Iterator[tuple[str, int]]:
        if self.bos_token_id is not None:
            yield "bos_token_id", self.bos_token_id
        for token in self.eos_token_ids:
            yield "eos_token_id", token


def _count(value: int, key: str, most: int = MAX_WIDTH) -> None:
    _require(1 <= value <= most, key, f"{value} is not between 1 and {most}")


def _require(condition: bool, key: str, problem: str) -> None:
    if not condition:
        raise ModelError(problem, field=key, remedy=_REMEDY)
