"""Root-mean-square norm of rows (Zhang and Sennrich, arXiv:1910.07467), and its plain reference.

``y = x / sqrt(mean(x²) + eps) · weight`` over the last dimension, normalised in float32 and cast back to the dtype of
``x`` before the weight is applied, as the Llama family was trained. A row's bits do not depend on the rows beside
it, as long as all are dense: a strided view takes the other form.

Two forms: the compiled one for dense float32 on the CPU, a fraction of PyTorch's time at every size measured
(``benchmarks/bench_rms_norm.py``), and PyTorch for everything else. Not here: other dtypes in native code, gradients of
the native form, more than one thread.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.kernels.native import NativeKernels, native_kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x`` ``[..., hidden]`` normed and scaled by ``weight`` ``[hidden]``, a new tensor like ``x``.

    Args:
        x: any floating dtype, device and strides.
        weight: on the device of ``x``.
        eps: added to the mean of squares; 0 for none.
    """
    native = native_kernels()
    if native is not None and _fits_native(x, weight):
        return _rms_norm_native(native, x, weight, eps)
    return rms_norm_torch(x, weight, eps)


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return what :func:`rms_norm` does, by PyTorch alone."""
    if x.dtype is torch.float32 and weight.dtype is torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    # F.rms_norm applies the weight before it casts back, which rounds differently in half precision.
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight.to(x.dtype)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the norm in the plainest way, computed in the dtype of ``x``: pass float64 to judge the others."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _fits_native(x: Tensor, weight: Tensor) -> bool:
    """Return whether the native kernel may read these addresses: dense float32 in memory, and no gradient wanted."""
    return (
        type(x) is Tensor
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.is_cpu
        and weight.is_cpu
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.numel() > 0
        and weight.shape == x.shape[-1:]
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def _rms_norm_native(native: NativeKernels, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    hidden = x.shape[-1]
    native.rms_norm_f32(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // hidden, hidden, eps)
    return out
