"""How large a model is before any of it is loaded: :class:`ModelFootprint`.

Counted from the model's description alone; the files' headers add how the weights are stored. Sliding windows do not
appear: the engine's KV cache keeps every layer's whole context.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from steelyard.core.errors import InputError
from steelyard.models.config import AttentionConfig, LayerConfig, MlpConfig, ModelConfig, NormKind, QKNorm, Residual
from steelyard.models.weights.source import WeightSource


@dataclass(frozen=True, slots=True)
class StoredFormat:
    """What a model's files hold in one number format, in the files' own spelling (``Q4_1``, ``BF16``)."""

    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFootprint:
    """A decoder's sizes.

    Attributes:
        embedding_params: token embeddings, and position embeddings if they are learned.
        layer_params: everything in the layers, and the final norm.
        head_params: the output projection, whether or not it is tied to the embeddings.
        tied_embeddings: whether the output projection is the embedding matrix.
        kv_elements_per_token: elements of keys and values over all layers.
        kv_elements_per_layer: the same of the widest layer.
        heads_per_kv_head: query heads that share a key/value head.
        activation_elements_per_token: the most that a layer holds per token besides the residual stream.
        max_context: tokens that the model was made for.
        stored: what the files hold, largest first; empty if nobody looked.
    """

    name: str
    embedding_params: int
    layer_params: int
    head_params: int
    tied_embeddings: bool
    hidden_size: int
    vocab_size: int
    kv_elements_per_token: int
    kv_elements_per_layer: int
    heads_per_kv_head: int
    activation_elements_per_token: int
    max_context: int
    stored: tuple[StoredFormat, ...] = ()

    def __post_init__(self) -> None:
        names = (
            "embedding_params", "layer_params", "head_params", "hidden_size", "vocab_size", "kv_elements_per_token",
            "kv_elements_per_layer", "heads_per_kv_head", "activation_elements_per_token", "max_context",
        )  # fmt: skip
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")

    @property
    def num_params(self) -> int:
        """Parameters, a tied matrix counted once."""
        return self.embedding_params + self.layer_params + (0 if self.tied_embeddings else self.head_params)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors in the files; 0 if nobody looked."""
        return sum(part.num_bytes for part in self.stored)


def footprint_from_config(config: ModelConfig, source: WeightSource | None, *, name: str) -> ModelFootprint:
    """Return the footprint of a described model.

    Args:
        config: the description.
        source: the weights, of which only names, sizes and formats are read; ``None`` if they are not at hand.
        name: what to call the model.
    """
    hidden = config.hidden_size
    attentions = [layer.attention for layer in config.layers]
    positions = config.max_position_embeddings * hidden if config.learned_positions else 0
    return ModelFootprint(
        name=name,
        embedding_params=config.vocab_size * hidden + positions,
        layer_params=sum(layer_params(config, layer) for layer in config.layers) + norm_params(config),
        head_params=config.vocab_size * (hidden + config.lm_head_bias),
        tied_embeddings=config.tied_embeddings,
        hidden_size=hidden,
        vocab_size=config.vocab_size,
        kv_elements_per_token=sum(2 * attention.kv_size for attention in attentions),
        kv_elements_per_layer=max(2 * attention.kv_size for attention in attentions),
        heads_per_kv_head=max(attention.num_heads // attention.num_kv_heads for attention in attentions),
        activation_elements_per_token=max(_activations(hidden, layer) for layer in config.layers),
        max_context=config.max_position_embeddings,
        stored=() if source is None else stored_formats(source),
    )


def stored_formats(source: WeightSource) -> tuple[StoredFormat, ...]:
    """Return how many bytes the files hold in each format, largest first."""
    sizes: Counter[str] = Counter()
    for name in source.names():
        sizes[source.format(name)] += source.num_bytes(name)
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return tuple(StoredFormat(name, num_bytes) for name, num_bytes in ordered)


def layer_params(config: ModelConfig, layer: LayerConfig) -> int:
    """Return the parameters of one layer: projections, feed-forward network, biases, norms."""
    num_norms = 4 if config.residual is Residual.SANDWICH else 2
    return (
        _attention_params(config.hidden_size, layer.attention)
        + _feed_forward_params(config.hidden_size, layer)
        + num_norms * norm_params(config)
    )


def norm_params(config: ModelConfig) -> int:
    """Return the parameters of one norm over hidden states."""
    return config.hidden_size * (1 if config.norm is NormKind.RMS else 2)


def _attention_params(hidden: int, attention: AttentionConfig) -> int:
    q, kv = attention.q_size, attention.kv_size
    qkv = (q + 2 * kv) * (hidden + attention.qkv_bias)
    out = hidden * (q + attention.out_bias)
    per_head, full = attention.qk_norm is QKNorm.PER_HEAD, attention.qk_norm is QKNorm.FULL
    return qkv + out + per_head * 2 * attention.head_dim + full * (q + kv)


def _feed_forward_params(hidden: int, layer: LayerConfig) -> int:
    network = layer.feed_forward
    if isinstance(network, MlpConfig):
        inner = network.size * (2 if network.gated else 1)
        return inner * (hidden + network.bias) + hidden * (network.size + network.bias)
    router = network.num_experts * hidden
    shared = 0 if network.shared_size is None else 3 * network.shared_size * hidden + hidden
    return router + network.num_experts * 3 * network.size * hidden + shared


def _activations(hidden: int, layer: LayerConfig) -> int:
    """Return the most elements per token that attention or the feed-forward network holds at one moment."""
    attention, network = layer.attention, layer.feed_forward
    attending = 2 * (2 * attention.q_size + 2 * attention.kv_size) + hidden
    if isinstance(network, MlpConfig):
        return max(attending, (4 if network.gated else 2) * network.size + hidden)
    copies = 3 * network.top_k * hidden
    return max(attending, copies + 4 * network.top_k * network.size, 4 * (network.shared_size or 0) + hidden)
