"""The decoder that every supported family is an instance of: a :class:`steelyard.models.contract.LanguageModel`.

Embed, then each layer's attention and feed-forward network, then the final norm; logits on demand. What differs
between families is in :class:`~steelyard.models.config.ModelConfig`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from steelyard.models.config import LayerConfig, MlpConfig, ModelConfig, Residual
from steelyard.models.contract import KVAccess
from steelyard.models.layers import Attention, Rotations, make_mlp, make_norm
from steelyard.models.moe import MixtureOfExperts
from steelyard.models.rope import RotaryTable


class Decoder(nn.Module):
    """A decoder-only language model over packed tokens.

    Args:
        config: its description. Parameters are made where and as torch's defaults say; ``load`` makes them on meta.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Module = make_embedding(config.vocab_size, config.hidden_size)
        self.positions: nn.Embedding | None = None
        if config.learned_positions:
            self.positions = make_embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(make_layer(config, index) for index in range(config.num_layers))
        self.norm = make_norm(config)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        if config.tied_embeddings:
            self.lm_head.weight = self.embed.weight
        ropes = dict.fromkeys(layer.attention.rope for layer in config.layers)
        self.rotary_tables = [RotaryTable(rope) for rope in ropes if rope is not None]

    def forward(self, token_ids: Tensor, positions: Tensor, kv: KVAccess) -> Tensor:
        """See :class:`steelyard.models.contract.LanguageModel`."""
        x = self._embedded(token_ids, positions)
        rotations: Rotations = {table.config: table.lookup(positions, x.dtype) for table in self.rotary_tables}
        for layer in self.layers:
            x = layer(x, rotations, kv)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """See :meth:`steelyard.models.contract.LanguageModel.logits`."""
        logits: Tensor = self.lm_head(hidden).float()
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _embedded(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x: Tensor = self.embed(token_ids)
        if self.config.embedding_scale is not None:
            x = x * _rounded(self.config.embedding_scale, x.dtype)
        return x if self.positions is None else x + self.positions(positions)


class SequentialLayer(nn.Module):
    """Attention, then the feed-forward network, each between its norms and added to its input."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        sandwich = config.residual is Residual.SANDWICH
        self.attention_norm, self.ffn_norm = make_norm(config), make_norm(config)
        self.attention_post_norm = make_norm(config) if sandwich else nn.Identity()
        self.ffn_post_norm = make_norm(config) if sandwich else nn.Identity()
        self.attention, self.mlp = make_halves(config, index)

    def forward(self, x: Tensor, rotations: Rotations, kv: KVAccess) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        x = x + self.attention_post_norm(self.attention(self.attention_norm(x), rotations, kv))
        out: Tensor = x + self.ffn_post_norm(self.mlp(self.ffn_norm(x)))
        return out


class ParallelLayer(nn.Module):
    """Attention and feed-forward network side by side, both added to the layer's input (GPT-NeoX)."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = make_norm(config), make_norm(config)
        self.attention, self.mlp = make_halves(config, index)

    def forward(self, x: Tensor, rotations: Rotations, kv: KVAccess) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        attended = self.attention(self.attention_norm(x), rotations, kv)
        out: Tensor = self.mlp(self.ffn_norm(x)) + attended + x
        return out


def make_embedding(num_rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose values are not set: drawing them on the meta device would cost seconds of imports."""
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(num_rows, width), freeze=False)  # type: ignore[no-untyped-call]
    return table


def make_layer(config: ModelConfig, index: int) -> nn.Module:
    """Return layer ``index`` of the model."""
    return ParallelLayer(config, index) if config.residual is Residual.PARALLEL else SequentialLayer(config, index)


def make_halves(config: ModelConfig, index: int) -> tuple[Attention, nn.Module]:
    """Return the attention and the feed-forward network of layer ``index``."""
    layer: LayerConfig = config.layers[index]
    attention = Attention(layer.attention, config.hidden_size, index, config.norm_eps)
    if isinstance(layer.feed_forward, MlpConfig):
        return attention, make_mlp(layer.feed_forward, config.hidden_size)
    return attention, MixtureOfExperts(layer.feed_forward, config.hidden_size)


@lru_cache(maxsize=16)
def _rounded(value: float, dtype: torch.dtype) -> float:
    """Return ``value`` as ``dtype`` holds it: checkpoints were trained with the rounded factor."""
    return torch.tensor(value, dtype=dtype).item()
