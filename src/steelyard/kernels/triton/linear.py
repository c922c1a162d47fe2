"""Linear layers whose weights are kept in 4 or 8 bits and widened in registers; activations stay in 16 or 32 bits.

A weight row is cut into groups of ``group`` inputs. Each group has a scale and a minimum, and an input's code ``c``
stands for ``minimum + c · scale``. How a :class:`PackedWeight` lies in memory:

- ``codes`` uint8 ``[outputs, inputs · bits / 8]``. With 8 bits, one code a byte. With 4 bits, byte ``j`` of a group
  holds the code of its input ``j`` in the low half and of input ``j + group/2`` in the high half, so that both halves
  meet dense stretches of activations.
- ``scales`` and ``minima`` ``[outputs, inputs / group]`` in the activations' dtype.
- Inputs are padded to a multiple of :data:`INPUT_TILE` by zeros.

Inputs are summed in :data:`NUM_PARTS` *parts* that begin at fixed places, and the parts are added in order. In the
``split`` form (few rows) a program sums one part and a second kernel adds them, for one program per output tile would
leave the device idle; in the ``whole`` form a program does both. So a row's bits do not depend on the rows beside it,
as long as the device's matrix instruction sums alike whatever the width of the tile of rows, 16 or 64 (a ``gpu`` test
asks it).

Codes are chosen by rounding to the nearest step between a group's extremes. Not here: better choices (GPTQ, AWQ),
8-bit activations, gradients, the stored formats of GGUF.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from steelyard.core.errors import ParamsError
from steelyard.core.units import ceil_div, round_up
from steelyard.kernels.triton.launch import SAME_BITS, product

BITS = (4, 8)
GROUPS = (32, 64, 128)
INPUT_TILE = 128
NUM_PARTS = 4
KEEP = ("lm_head", "router", "shared_gate")
_OUTPUT_TILE = 64
_FEW_ROWS, _MANY_ROWS = 16, 64


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight in few bits; the module's docstring says how it lies in memory.

    Attributes:
        codes: uint8 ``[outputs, padded inputs · bits / 8]``.
        scales: ``[outputs, padded inputs / group]``.
        minima: as ``scales``.
        bits: 4 or 8.
        group: inputs that share a scale.
        num_inputs: inputs without padding.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor
    bits: int
    group: int
    num_inputs: int

    @property
    def num_outputs(self) -> int:
        """Rows of the weight."""
        return self.codes.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales and minima."""
        return self.codes.nbytes + self.scales.nbytes + self.minima.nbytes


def pack(weight: Tensor, bits: int, group: int) -> PackedWeight:
    """Return ``weight`` ``[outputs, inputs]`` in ``bits`` bits, scales and minima in its own dtype.

    Raises:
        ParamsError: if ``bits`` or ``group`` is none of :data:`BITS` and :data:`GROUPS`.
    """
    for name, value, known in (("bits", bits, BITS), ("group", group, GROUPS)):
        if value not in known:
            raise ParamsError(f"{value} is not supported", field=name, remedy=f"Use one of {known}")
    outputs, inputs = weight.shape
    padded = F.pad(weight, (0, round_up(inputs, INPUT_TILE) - inputs)).float()
    groups = padded.view(outputs, -1, group)
    minima = groups.amin(-1).to(weight.dtype)
    steps = (1 << bits) - 1
    scales = ((groups.amax(-1) - minima.float()) / steps).to(weight.dtype)
    divisor = scales.float().masked_fill(scales == 0, 1.0)
    # Against the rounded scale and minimum, so that the codes make up for their rounding.
    codes = ((groups - minima.float()[..., None]) / divisor[..., None]).round().clamp(0, steps).to(torch.uint8)
    if bits == 4:
        low, high = codes.chunk(2, dim=-1)
        codes = low | high << 4
    return PackedWeight(codes.reshape(outputs, -1), scales, minima, bits, group, inputs)


def unpack(weight: PackedWeight) -> Tensor:
    """Return the float32 ``[outputs, inputs]`` that the codes stand for."""
    outputs = weight.num_outputs
    codes = weight.codes.view(outputs, -1, weight.group * weight.bits // 8)
    if weight.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1)
    wide = codes.float() * weight.scales.float()[..., None] + weight.minima.float()[..., None]
    return wide.view(outputs, -1)[:, : weight.num_inputs]


def packed_linear_reference(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """Return ``x @ weightᵀ + bias`` in the plainest way, in the dtype of ``x``: pass float64 to judge the others."""
    out = x @ unpack(weight).to(x.dtype).T
    return out if bias is None else out + bias.to(x.dtype)


def packed_linear(x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weightᵀ + bias``, ``[rows, outputs]`` in the dtype of ``x``, summed in float32.

    Args:
        x: ``[rows, inputs]``, dense rows; float32, bfloat16 or float16. Weights are rounded to its dtype.
        weight: on the device of ``x``.
        bias: ``[outputs]``.
    """
    rows, inputs = x.shape
    assert inputs == weight.num_inputs
    assert x.stride(1) == 1
    out = x.new_empty((rows, weight.num_outputs))
    if rows == 0:
        return out
    form = _split if rows <= _FEW_ROWS else _whole
    form(x, weight, bias, out)
    return out


def _split(x: Tensor, weight: PackedWeight, bias: Tensor | None, out: Tensor) -> None:
    rows, outputs = out.shape
    parts = x.new_empty((NUM_PARTS, rows, outputs), dtype=torch.float32)
    grid = (ceil_div(outputs, _OUTPUT_TILE), ceil_div(rows, _FEW_ROWS), NUM_PARTS)
    _product_kernel[grid](
        x, weight.codes, weight.scales, weight.minima, bias, parts, rows, outputs, x.shape[1], x.stride(0),
        weight.scales.shape[1], outputs, **_shape(weight), ROWS=_FEW_ROWS, SPLIT=True, **SAME_BITS,
    )  # fmt: skip
    block = 256
    _add_parts_kernel[(rows, ceil_div(outputs, block))](
        parts, bias, out, rows, outputs, PARTS=NUM_PARTS, SIZE=block, **SAME_BITS
    )


def _whole(x: Tensor, weight: PackedWeight, bias: Tensor | None, out: Tensor) -> None:
    rows, outputs = out.shape
    grid = (ceil_div(outputs, _OUTPUT_TILE), ceil_div(rows, _MANY_ROWS))
    _product_kernel[grid](
        x, weight.codes, weight.scales, weight.minima, bias, out, rows, outputs, x.shape[1], x.stride(0),
        weight.scales.shape[1], outputs, **_shape(weight), ROWS=_MANY_ROWS, SPLIT=False, **SAME_BITS,
    )  # fmt: skip


def _shape(weight: PackedWeight) -> dict[str, int]:
    """Return the compile-time arguments of both forms. They are the same in both: they decide bits."""
    return {
        "BITS": weight.bits,
        "GROUP": weight.group,
        "OUTPUTS": _OUTPUT_TILE,
        "INPUTS": INPUT_TILE,
        "PARTS": NUM_PARTS,
        "num_warps": 4,
        "num_stages": 3,
    }


@triton.jit
def _widened(codes, scales, minima, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr):
    """Return the weights ``[OUTPUTS, INPUTS]`` of codes ``[OUTPUTS, groups, inputs of a group]``, dtype of scales."""
    wide = codes.to(tl.float32) * scales.to(tl.float32)[:, :, None] + minima.to(tl.float32)[:, :, None]
    return tl.reshape(wide.to(scales.dtype), (OUTPUTS, INPUTS))


@triton.jit
def _load_columns(x, rows, inputs, num_rows, num_inputs, x_stride):
    """Return ``xᵀ`` at ``inputs`` × ``rows``; zero past the end."""
    real = (inputs < num_inputs)[:, None] & (rows < num_rows)[None, :]
    return tl.load(x + rows.to(tl.int64)[None, :] * x_stride + inputs[:, None], mask=real, other=0.0)


@triton.jit
def _sum_part(
    x, codes, scales, minima, outputs, rows, first, last, num_outputs, num_rows, num_inputs, x_stride, num_groups,
    BITS: tl.constexpr, GROUP: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Return ``[OUTPUTS, ROWS]``: the products of input tiles ``first … last − 1``, summed."""
    TILE_GROUPS: tl.constexpr = INPUTS // GROUP
    GROUP_BYTES: tl.constexpr = GROUP * BITS // 8
    groups, offsets = tl.arange(0, TILE_GROUPS), tl.arange(0, GROUP_BYTES)
    lane = tl.arange(0, TILE_GROUPS * GROUP_BYTES)
    lane_input = lane // GROUP_BYTES * GROUP + lane % GROUP_BYTES
    real = outputs < num_outputs
    code_rows = codes + outputs.to(tl.int64)[:, None, None] * (num_groups * GROUP_BYTES)
    stat_rows = outputs.to(tl.int64)[:, None] * num_groups
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for tile in range(first, last):
        group = tile * TILE_GROUPS + groups
        packed = tl.load(
            code_rows + group[None, :, None] * GROUP_BYTES + offsets[None, None, :], mask=real[:, None, None], other=0
        )
        scale = tl.load(scales + stat_rows + group[None, :], mask=real[:, None], other=0.0)
        minimum = tl.load(minima + stat_rows + group[None, :], mask=real[:, None], other=0.0)
        inputs = tile * INPUTS + lane_input
        near = _load_columns(x, rows, inputs, num_rows, num_inputs, x_stride)
        if BITS == 4:
            far = _load_columns(x, rows, inputs + GROUP // 2, num_rows, num_inputs, x_stride)
            low = _widened(packed & 15, scale, minimum, OUTPUTS, TILE_GROUPS * GROUP_BYTES)
            high = _widened(packed >> 4, scale, minimum, OUTPUTS, TILE_GROUPS * GROUP_BYTES)
            total += product(low.to(near.dtype), near) + product(high.to(near.dtype), far)
        else:
            whole = _widened(packed, scale, minimum, OUTPUTS, TILE_GROUPS * GROUP_BYTES)
            total += product(whole.to(near.dtype), near)
    return total


@triton.jit
def _product_kernel(
    x, codes, scales, minima, bias, out, num_rows, num_outputs, num_inputs, x_stride, num_groups, out_stride,
    BITS: tl.constexpr, GROUP: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    num_tiles = num_groups * GROUP // INPUTS
    tiles_each = (num_tiles + PARTS - 1) // PARTS
    real = (outputs < num_outputs)[:, None] & (rows < num_rows)[None, :]
    place = rows.to(tl.int64)[None, :] * out_stride + outputs[:, None]
    if SPLIT:
        part = tl.program_id(2)
        last = tl.minimum((part + 1) * tiles_each, num_tiles)
        total = _sum_part(
            x, codes, scales, minima, outputs, rows, part * tiles_each, last, num_outputs, num_rows, num_inputs,
            x_stride, num_groups, BITS, GROUP, OUTPUTS, INPUTS, ROWS,
        )  # fmt: skip
        tl.store(out + part.to(tl.int64) * num_rows * out_stride + place, total, mask=real)
    else:
        total = tl.zeros([OUTPUTS, ROWS], tl.float32)
        for part in range(PARTS):
            last = tl.minimum((part + 1) * tiles_each, num_tiles)
            total += _sum_part(
                x, codes, scales, minima, outputs, rows, part * tiles_each, last, num_outputs, num_rows, num_inputs,
                x_stride, num_groups, BITS, GROUP, OUTPUTS, INPUTS, ROWS,
            )  # fmt: skip
        if bias is not None:
            total += tl.load(bias + outputs, mask=outputs < num_outputs, other=0.0).to(tl.float32)[:, None]
        tl.store(out + place, total.to(out.dtype.element_ty), mask=real)


@triton.jit
def _add_parts_kernel(parts, bias, out, num_rows, num_outputs, PARTS: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    outputs = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    real = outputs < num_outputs
    total = tl.zeros([SIZE], tl.float32)
    for part in range(PARTS):
        total += tl.load(parts + (part * num_rows + row) * num_outputs + outputs, mask=real, other=0.0)
    if bias is not None:
        total += tl.load(bias + outputs, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * num_outputs + outputs, total.to(out.dtype.element_ty), mask=real)


class WeightOnlyLinear(nn.Module):
    """``x @ weightᵀ + bias`` with the weight in few bits; the original weight is not kept.

    Args:
        linear: the layer to take over.
        bits: 4 or 8.
        group: inputs that share a scale, one of :data:`GROUPS`.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor

    def __init__(self, linear: nn.Linear, bits: int, group: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits, self.group = bits, group
        packed = pack(linear.weight.detach(), bits, group)
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scales", packed.scales)
        self.register_buffer("minima", packed.minima)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def packed(self) -> PackedWeight:
        """The weight."""
        return PackedWeight(self.codes, self.scales, self.minima, self.bits, self.group, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[rows, out_features]`` of ``x`` ``[rows, in_features]``."""
        return packed_linear(x, self.packed, self.bias)


def quantise_linears(model: nn.Module, bits: int, group: int, keep: Collection[str] = KEEP) -> int:
    """Replace every ``nn.Linear`` under ``model`` by a :class:`WeightOnlyLinear`, in place.

    One layer at a time, letting go of its original weight, so that memory never holds both forms of the whole model.

    Args:
        model: any module on a device that :func:`~steelyard.kernels.triton_available.triton_usable` names.
        bits: 4 or 8.
        group: inputs that share a scale.
        keep: layers that stay as they are, by the last part of their name: by default the output projection, which
            suffers most and is often the embedding, and what routes tokens to experts.

    Returns:
        How many were replaced.
    """
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name not in keep
    ]
    for parent, name in places:
        setattr(parent, name, WeightOnlyLinear(getattr(parent, name), bits, group))
    return len(places)
