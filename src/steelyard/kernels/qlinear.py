"""Linear layers with quantised weights and 8-bit activations, and their plain reference.

Activations are quantised as they come, symmetrically, with a scale per 32 inputs; products are summed exactly in int32
within a block, blocks in order in float32 (``csrc/qgemm/qgemm.hpp`` has the formula). A row's bits depend on nothing
but the row and the weights: not on the rows beside it, the number of threads or the instruction set.

Without the extension the same function is computed by :func:`qlinear_torch`, which unpacks the weights on every call
and agrees to rounding; it is there to be correct. Left out: gradients, devices other than the CPU.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.core.units import ceil_div, round_up
from steelyard.kernels.native import NativeKernels, NativeThreadPool, native_kernels
from steelyard.kernels.packed_matrix import PANEL_WIDTH, PackedMatrix
from steelyard.kernels.threads import thread_pool
from steelyard.quant.blocks import BLOCK_LENGTH

__all__ = [
    "ACTIVATION_BLOCK_BYTES",
    "Epilogue",
    "PackedMatrix",
    "feature_group_norms",
    "largest_of_fine",
    "qlinear",
    "qlinear_fine",
    "qlinear_reference",
    "qlinear_torch",
    "quantise_rows",
    "quantise_rows_torch",
]

ACTIVATION_BLOCK_BYTES = 44  # 32 values, scale, sum, negative sum
_FEATURE_GROUP = 32  # features of which largest_of_fine keeps one sum
_SMALLEST_AMAX = 2.0**-100  # a block of smaller numbers becomes zeros

Epilogue = Literal["store", "add", "silu", "gelu_tanh"]
_GATED = ("silu", "gelu_tanh")


def qlinear(
    x: Tensor,
    weight: PackedMatrix,
    bias: Tensor | None = None,
    *,
    epilogue: Epilogue = "store",
    out: Tensor | None = None,
    pool: NativeThreadPool | None = None,
    isa: str | None = None,
) -> Tensor:
    """Return ``x @ weightᵀ + bias`` with quantised operands, float32.

    Args:
        x: float32 ``[rows, num_inputs]`` on the CPU; rows may be apart.
        weight: ``[num_rows, num_inputs]``.
        bias: float32 ``[num_rows]``, in the order of the packed rows.
        epilogue: ``store`` the sums; ``add`` them to ``out``; or treat panels of 16 features as gate and up in turn
            (:func:`~steelyard.kernels.packed_matrix.alternating_rows`) and return ``act(gate) · up``.
        out: float32, written (``add``: added to) and returned; rows may be apart. New if left out, but for ``add``.
        pool: threads to run on; as many as PyTorch uses, if left out.
        isa: one of the extension's instruction sets; the widest if left out. For tests.

    Returns:
        ``[rows, num_rows]``, or ``[rows, num_rows / 2]`` if gated.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or ``num_rows`` of a gated product is no multiple of 32.
    """
    out = _checked(x, weight, bias, epilogue, out)
    native = native_kernels()
    if native is None:
        return qlinear_torch(x, weight, bias, epilogue=epilogue, out=out)
    if not out.numel():
        return out
    pool = thread_pool() if pool is None else pool
    blocks = _quantise_native(native, x, pool, isa)
    native.qgemm(
        pool,
        weight.format,
        weight.data.data_ptr(),
        weight.num_rows,
        weight.num_inputs,
        blocks.data_ptr(),
        len(x),
        out.data_ptr(),
        out.stride(0),
        0 if bias is None else bias.data_ptr(),
        epilogue,
        isa,
    )
    return out


def qlinear_fine(x: Tensor, weight: PackedMatrix) -> Tensor:
    """Return ``x @ weightᵀ``, with ``x`` taken in two steps of 8 bits, the second for what the first leaves.

    Costs the arithmetic of twice the rows and reads the weights once. A row's bits are its own, as in :func:`qlinear`.

    Args:
        x: float32 ``[rows, num_inputs]`` on the CPU; rows may be apart.
        weight: ``[num_rows, num_inputs]``.

    Returns:
        ``[rows, num_rows]`` float32.

    Raises:
        ValueError: as :func:`qlinear`.
    """
    out = _checked(x, weight, None, "store", None)
    native = native_kernels()
    if native is None:
        values, scales = quantise_rows_torch(x)
        rest = x - (values * scales[..., None]).view(len(x), -1)[:, : weight.num_inputs]
        return qlinear_torch(x, weight) + qlinear_torch(rest, weight)
    if not out.numel():
        return out
    num_blocks = ceil_div(weight.num_inputs, BLOCK_LENGTH)
    rest = torch.empty(x.shape)
    blocks = torch.empty(2 * len(x) * num_blocks * ACTIVATION_BLOCK_BYTES, dtype=torch.uint8)
    sums = torch.empty(2 * len(x), weight.num_rows)
    native.qgemm_fine(
        thread_pool(), weight.format, weight.data.data_ptr(), weight.num_rows, weight.num_inputs, x.data_ptr(),
        x.stride(0), len(x), rest.data_ptr(), blocks.data_ptr(), sums.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    return out


def feature_group_norms(weight: PackedMatrix) -> Tensor:
    """Return what :func:`largest_of_fine` needs to know of a weight, once: norms of its rows, ``[groups]`` float32."""
    native = _native()
    norms = torch.empty(ceil_div(weight.num_rows, _FEATURE_GROUP))
    native.feature_group_norms(
        thread_pool(), weight.format, weight.data.data_ptr(), weight.num_rows, weight.num_inputs, norms.data_ptr()
    )
    return norms


def largest_of_fine(
    x: Tensor, weight: PackedMatrix, norms: Tensor, *, pool: NativeThreadPool | None = None, isa: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the largest element of each row of :func:`qlinear_fine`, to the bit, and its position, without the rest.

    Half the arithmetic: the second step of the activations is only taken where it could decide
    (``csrc/qgemm/likeliest.hpp``). The extension must be there.

    Args:
        x: float32 ``[rows, num_inputs]`` on the CPU; rows may be apart.
        weight: ``[num_rows, num_inputs]``, ``num_rows`` not 0.
        norms: :func:`feature_group_norms` of the weight.
        pool: as in :func:`qlinear`.
        isa: as in :func:`qlinear`.

    Returns:
        ``[rows]`` float32 and ``[rows]`` int64, the first among equals. A row with a NaN or an infinity in ``x``, or a
        NaN in its product, has NaN as its largest.

    Raises:
        ValueError: as :func:`qlinear`.
    """
    _refuse_unfit("x", x, (len(x), weight.num_inputs))
    native = _native()
    num_blocks = ceil_div(weight.num_inputs, BLOCK_LENGTH)
    rest, maxima = torch.empty(x.shape), torch.empty(len(x), len(norms))
    blocks = torch.empty(2 * len(x) * num_blocks * ACTIVATION_BLOCK_BYTES, dtype=torch.uint8)
    largest, position = torch.empty(len(x)), torch.empty(len(x), dtype=torch.int64)
    native.qgemm_likeliest(
        thread_pool() if pool is None else pool, weight.format, weight.data.data_ptr(), weight.num_rows,
        weight.num_inputs, x.data_ptr(), x.stride(0), len(x), rest.data_ptr(), blocks.data_ptr(), norms.data_ptr(),
        maxima.data_ptr(), largest.data_ptr(), position.data_ptr(), isa,
    )  # fmt: skip
    return largest, position


def quantise_rows(
    x: Tensor,
    norm: tuple[Tensor, float] | None = None,
    *,
    pool: NativeThreadPool | None = None,
    isa: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the 8-bit form of float32 rows, as the products see it.

    Args:
        x: ``[rows, inputs]`` on the CPU.
        norm: weight ``[inputs]`` and eps of an RMS norm to apply first (:mod:`steelyard.kernels.rms_norm`).
        pool: as in :func:`qlinear`.
        isa: as in :func:`qlinear`.

    Returns:
        values int8 ``[rows, blocks, 32]`` and scales float32 ``[rows, blocks]``; ``x ≈ values · scales``.
    """
    native = native_kernels()
    if native is None:
        normed = x if norm is None else F.rms_norm(x, x.shape[1:], *norm)
        return quantise_rows_torch(normed)
    pool = thread_pool() if pool is None else pool
    blocks = _quantise_native(native, x, pool, isa, norm)
    values = blocks[..., :BLOCK_LENGTH].contiguous().view(torch.int8)
    scales = blocks[..., BLOCK_LENGTH : BLOCK_LENGTH + 4].contiguous().view(torch.float32)
    return values, scales[..., 0]


def quantise_rows_torch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`quantise_rows` does, by PyTorch alone and bit for bit, for finite rows."""
    padded = F.pad(x, (0, round_up(x.shape[1], BLOCK_LENGTH) - x.shape[1]))
    blocks = padded.reshape(len(x), padded.shape[1] // BLOCK_LENGTH, BLOCK_LENGTH)
    amax = blocks.abs().amax(dim=-1)
    vanishes = amax < _SMALLEST_AMAX
    inverse = torch.where(vanishes, 0.0, torch.full_like(amax, 127) / amax)  # 127 / amax would multiply by 1 / amax
    values = (blocks * inverse[..., None]).round().to(torch.int8)
    return values, torch.where(vanishes, 0.0, amax / 127)


def qlinear_torch(
    x: Tensor,
    weight: PackedMatrix,
    bias: Tensor | None = None,
    *,
    epilogue: Epilogue = "store",
    out: Tensor | None = None,
) -> Tensor:
    """Return what :func:`qlinear` does, by PyTorch alone: weights and activations are dequantised and multiplied."""
    out = _checked(x, weight, bias, epilogue, out)
    values, scales = quantise_rows_torch(x)
    rounded = (values * scales[..., None]).flatten(1)[:, : weight.num_inputs]
    return _finish(F.linear(rounded, weight.dequantise(), bias), epilogue, out)


def qlinear_reference(
    x: Tensor,
    weight: PackedMatrix,
    bias: Tensor | None = None,
    *,
    epilogue: Epilogue = "store",
    out: Tensor | None = None,
) -> Tensor:
    """Return the same with quantised activations as :func:`qlinear` takes them, but summed in float64.

    Activations pass through :func:`quantise_rows_torch`; from there on nothing is rounded below float64.
    """
    values, scales = quantise_rows_torch(x)
    rounded = (values.double() * scales.double()[..., None]).flatten(1)[:, : weight.num_inputs]
    y = F.linear(rounded, weight.dequantise().double(), None if bias is None else bias.double())
    result = torch.zeros(len(x), out_width(weight, epilogue), dtype=torch.float64) if out is None else out.double()
    return _finish(y, epilogue, result)


def out_width(weight: PackedMatrix, epilogue: Epilogue) -> int:
    """Return the number of columns of a product."""
    return weight.num_rows // 2 if epilogue in _GATED else weight.num_rows


def _finish(y: Tensor, epilogue: Epilogue, out: Tensor) -> Tensor:
    """Apply the epilogue to sums ``[rows, num_rows]``, into ``out``."""
    if epilogue == "store":
        return out.copy_(y)
    if epilogue == "add":
        return out.add_(y)
    gate, up = y.reshape(len(y), y.shape[1] // (2 * PANEL_WIDTH), 2, PANEL_WIDTH).unbind(dim=2)
    act = F.silu(gate) if epilogue == "silu" else F.gelu(gate, approximate="tanh")
    return out.copy_((act * up).flatten(1))


def _checked(x: Tensor, weight: PackedMatrix, bias: Tensor | None, epilogue: str, out: Tensor | None) -> Tensor:
    """Return ``out``, made if need be, after refusing what the kernel could not take."""
    if epilogue not in get_args(Epilogue):
        raise ValueError(f"there is no epilogue {epilogue!r}; there are {', '.join(get_args(Epilogue))}")
    if epilogue in _GATED and weight.num_rows % (2 * PANEL_WIDTH):
        raise ValueError(f"a gated product needs a multiple of {2 * PANEL_WIDTH} rows, not {weight.num_rows}")
    if epilogue == "add" and out is None:
        raise ValueError("the add epilogue needs something to add to")
    width = weight.num_rows // 2 if epilogue in _GATED else weight.num_rows
    _refuse_unfit("x", x, (len(x), weight.num_inputs))
    if bias is not None:
        _refuse_unfit("bias", bias, (weight.num_rows,))
    if out is None:
        return torch.empty(len(x), width)
    _refuse_unfit("out", out, (len(x), width))
    return out


def _refuse_unfit(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} where {shape} is needed")
    if tensor.dtype is not torch.float32 or not tensor.is_cpu or (tensor.numel() and tensor.stride(-1) != 1):
        raise ValueError(f"{name} must be float32 on the CPU with dense rows")


def _native() -> NativeKernels:
    native = native_kernels()
    assert native is not None, "ask native_available() first"
    return native


def _quantise_native(
    native: NativeKernels,
    x: Tensor,
    pool: NativeThreadPool,
    isa: str | None,
    norm: tuple[Tensor, float] | None = None,
) -> Tensor:
    """Return activation blocks, uint8 ``[rows, blocks, 44]``."""
    rows, num_inputs = x.shape
    blocks = torch.empty(rows, ceil_div(num_inputs, BLOCK_LENGTH), ACTIVATION_BLOCK_BYTES, dtype=torch.uint8)
    source, stride, target = x.data_ptr(), x.stride(0), blocks.data_ptr()
    if norm is None:
        native.quantise_rows(pool, source, stride, rows, num_inputs, target, isa)
    else:
        weight, eps = norm
        _refuse_unfit("the norm's weight", weight, (num_inputs,))
        native.rms_norm_quantise_rows(pool, source, stride, weight.data_ptr(), eps, rows, num_inputs, target, isa)
    return blocks
