"""A decoder's layers with neighbouring operations fused into Triton kernels; put in place from outside, for serving.

Three pairs are fused: the residual sum with the norm after it, the gate's activation with its product, and the rotation
of queries and keys with the writing of keys and values. Everything else, parameters included, is the modules' own.

Not here: gradients, LayerNorm, layers with norms after each half, other activations than SiLU (those stay as they are).
Import it only where :func:`steelyard.kernels.triton_available.triton_usable` allows.
"""

from __future__ import annotations

from torch import Tensor, nn

from steelyard.kernels.triton.add_rms_norm import add_rms_norm
from steelyard.kernels.triton.swiglu import swiglu
from steelyard.models.config import Activation
from steelyard.models.contract import KVAccess, RotatingKV
from steelyard.models.decoder import Decoder, SequentialLayer
from steelyard.models.layers import ACTIVATIONS, Attention, GatedMlp, RMSNorm, Rotations


class FusedAttention(nn.Module):
    """Attention whose rotation happens on the way into the KV cache, where the step's cache can do that."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, rotations: Rotations, kv: KVAccess) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        config = self.attention.config
        if config.rope is None or not isinstance(kv, RotatingKV):
            whole: Tensor = self.attention(x, rotations, kv)
            return whole
        q, k, v = self.attention.project(x)
        attended = kv.rotate_and_attend(self.attention.spec, q, k, v, rotations[config.rope])
        out: Tensor = self.attention.out(attended.reshape(-1, config.q_size))
        return out


class FusedGatedMlp(nn.Module):
    """``down(silu(gate) · up)`` with activation and product in one kernel."""

    def __init__(self, mlp: GatedMlp) -> None:
        super().__init__()
        self.gate_up, self.down = mlp.gate_up, mlp.down

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        out: Tensor = self.down(swiglu(self.gate_up(x)))
        return out


class FusedLayer(nn.Module):
    """A pre-norm layer whose first residual sum and second norm are one kernel."""

    def __init__(self, layer: SequentialLayer, ffn_norm: RMSNorm) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = layer.attention_norm, ffn_norm
        self.attention, self.mlp = layer.attention, layer.mlp

    def forward(self, x: Tensor, rotations: Rotations, kv: KVAccess) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        attended = self.attention(self.attention_norm(x), rotations, kv)
        x, normed = add_rms_norm(attended, x, self.ffn_norm.weight, self.ffn_norm.eps)
        out: Tensor = x + self.mlp(normed)
        return out


def fuse_layers(model: Decoder) -> None:
    """Put fused layers in the place of those under ``model`` that have a fused form, in place."""
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, nn.Module)
        if isinstance(layer.attention, Attention):
            layer.attention = FusedAttention(layer.attention)
        if isinstance(layer.mlp, GatedMlp) and layer.mlp.activate is ACTIVATIONS[Activation.SILU]:
            layer.mlp = FusedGatedMlp(layer.mlp)
        if isinstance(layer, SequentialLayer) and isinstance(layer.ffn_norm, RMSNorm) and not _is_sandwich(layer):
            model.layers[index] = FusedLayer(layer, layer.ffn_norm)


def _is_sandwich(layer: SequentialLayer) -> bool:
    return not isinstance(layer.attention_post_norm, nn.Identity)
