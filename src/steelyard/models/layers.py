"""The parts of a decoder layer, over packed tokens: norms, attention, dense feed-forward networks, and their order.

Every operation treats a token by itself, attention aside. Projections that read the same input are one fused
``nn.Linear``; all linear layers are plain submodules, so that prepared ones can be put in their place from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.kernels.rms_norm import rms_norm
from steelyard.models.config import Activation, AttentionConfig, MlpConfig, ModelConfig, NormKind, QKNorm, RopeConfig
from steelyard.models.contract import AttentionSpec, KVAccess
from steelyard.models.rope import Rotation, rotate

Rotations = Mapping[RopeConfig, Rotation]
"""The step's rotation for each rotary embedding of the model, looked up once for all layers."""

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: F.silu,
    Activation.GELU: lambda x: F.gelu(x.contiguous()),  # as for norms: dense and strided rows differ in bits
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
    Activation.RELU: F.relu,
}


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of ``x`` ``[..., size]``, same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    """Return the model's kind of norm over hidden states."""
    if config.norm is NormKind.RMS:
        return RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention: one fused projection, optional norm and rotation, attention over the past, projection."""

    def __init__(self, config: AttentionConfig, hidden_size: int, layer: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.spec = AttentionSpec(
            layer=layer,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            scale=config.scale,
            window=config.window,
            softcap=config.softcap,
        )
        self.qkv = nn.Linear(hidden_size, config.q_size + 2 * config.kv_size, bias=config.qkv_bias)
        self.out = nn.Linear(config.q_size, hidden_size, bias=config.out_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm is not None:
            per_head = config.qk_norm is QKNorm.PER_HEAD
            self.q_norm = RMSNorm(config.head_dim if per_head else config.q_size, eps)
            self.k_norm = RMSNorm(config.head_dim if per_head else config.kv_size, eps)

    def forward(self, x: Tensor, rotations: Rotations, kv: KVAccess) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        config = self.config
        q, k, v = self.project(x)
        if config.rope is not None:
            rotation = rotations[config.rope]
            q, k = rotate(q, rotation), rotate(k, rotation)
        attended = kv.attend(self.spec, q, k, v)
        out: Tensor = self.out(attended.reshape(-1, config.q_size))
        return out

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each ``[tokens, heads, head_dim]``, normalised but not rotated.

        Norms are given dense rows: a view of one row is dense, of several is not, and kernels differ between the two.
        """
        config = self.config
        q, k, v = self.qkv(x).split((config.q_size, config.kv_size, config.kv_size), dim=-1)
        if config.qk_norm is QKNorm.FULL:
            assert self.q_norm is not None
            assert self.k_norm is not None
            q, k = self.q_norm(q.contiguous()), self.k_norm(k.contiguous())
        if config.clip_qkv is not None:
            q, k, v = (part.clamp(-config.clip_qkv, config.clip_qkv) for part in (q, k, v))
        q, k, v = (part.unflatten(-1, (-1, config.head_dim)) for part in (q, k, v))
        if config.qk_norm is QKNorm.PER_HEAD:
            assert self.q_norm is not None
            assert self.k_norm is not None
            q, k = self.q_norm(q.contiguous()), self.k_norm(k.contiguous())
        return q, k, v


class GatedMlp(nn.Module):
    """``down(act(gate) · up)``, gate and up in one projection (Shazeer, arXiv:2002.05202)."""

    def __init__(self, hidden_size: int, size: int, activation: Activation, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * size, bias=bias)
        self.down = nn.Linear(size, hidden_size, bias=bias)
        self.activation, self.activate = activation, ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(self.activate(gate) * up)
        return out


class Mlp(nn.Module):
    """``down(act(up))``."""

    def __init__(self, hidden_size: int, size: int, activation: Activation, bias: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, size, bias=bias)
        self.down = nn.Linear(size, hidden_size, bias=bias)
        self.activate = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        out: Tensor = self.down(self.activate(self.up(x)))
        return out


def make_mlp(config: MlpConfig, hidden_size: int) -> nn.Module:
    """Return the dense feed-forward network that ``config`` describes."""
    kind = GatedMlp if config.gated else Mlp
    return kind(hidden_size, config.size, config.activation, config.bias)
