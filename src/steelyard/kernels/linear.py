"""Linear layers prepared for this machine, whose rows do not depend on their neighbours.

Two things happen to a model's ``nn.Linear`` layers between loading and serving, both from outside the model:

* On a CPU with oneDNN the weight is repacked once into the layout its matrix kernel reads best (the plain ``F.linear``
  of PyTorch's default BLAS reaches less than half of it on some CPUs).
* The number of rows is padded to a multiple of the *row tile*. A matrix kernel may take another path, with another
  order of summation, for one row than for many; then a request's tokens would depend on how many others share the
  batch. The row tile is the smallest multiple of rows for which this machine was seen to give every row the same bits
  (:func:`find_row_tile` measures it).

Not here: quantised weights, fused epilogues.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.core.units import round_up

ROW_TILES = (1, 2, 4, 8, 16, 32, 64)
_PROBE_ROWS = (*range(1, 10), 12, 15, 16, 17, 24, 31, 32, 33, 44, 48, 63, 64, 65, 96, 128, 159)
_PROBE_LENGTH = 160
_PROBE_OUTPUTS = 1024
_PROBE_CHUNKS = 16
_PACK_ROWS_HINT = 32

RowFunction = Callable[[Tensor], Tensor]


class PackedLinear(nn.Module):
    """``x @ weightᵀ + bias`` with the weight repacked by oneDNN; the original weight is not kept.

    Args:
        linear: the layer to take over, on the CPU, float32 or bfloat16.
        row_tile: rows are padded to a multiple of this.
    """

    def __init__(self, linear: nn.Linear, row_tile: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.row_tile = row_tile
        self.packed = pack_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[rows, out_features]`` of ``x`` ``[rows, in_features]``."""
        rows = x.shape[0]
        if rows % self.row_tile:
            x = F.pad(x, (0, 0, 0, round_up(rows, self.row_tile) - rows))
        return packed_linear(x, self.packed, self.bias)[:rows]


class TiledLinear(nn.Module):
    """``nn.Linear`` with rows padded to a multiple of the row tile, for machines without oneDNN's repacking."""

    def __init__(self, linear: nn.Linear, row_tile: int) -> None:
        super().__init__()
        self.linear, self.row_tile = linear, row_tile

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[rows, out_features]`` of ``x`` ``[rows, in_features]``."""
        rows = x.shape[0]
        if rows % self.row_tile:
            x = F.pad(x, (0, 0, 0, round_up(rows, self.row_tile) - rows))
        out: Tensor = self.linear(x)
        return out[:rows]


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN repacking exists for this device and dtype in this build of PyTorch."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack_weight(weight: Tensor) -> Tensor:
    """Return ``weight`` ``[out, in]`` in oneDNN's blocked layout, an opaque tensor for :func:`packed_linear`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_ROWS_HINT)
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weightᵀ + bias``, ``[rows, out]``, for a weight packed by :func:`pack_weight`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


def prepare_linears(model: nn.Module) -> int:
    """Replace every ``nn.Linear`` under ``model`` by its prepared form, in place, and return the row tile in use.

    One layer at a time, letting go of its original weight, so that memory never holds both forms of the whole model.
    """
    places = [(parent, name) for parent in model.modules() for name in _plain_children(parent)]
    if not places:
        return 1
    first: nn.Linear = getattr(*places[0])
    if first.weight.device.type != "cpu":
        return 1
    dtype, shapes = first.weight.dtype, {_probe_shape(getattr(*place)) for place in places}
    kind = PackedLinear if can_pack(first.weight.device, dtype) else TiledLinear
    del first
    row_tile = find_row_tile(tuple(sorted(shapes)), dtype, torch.get_num_threads())
    for parent, name in places:
        setattr(parent, name, kind(getattr(parent, name), row_tile))
    return row_tile


def _plain_children(parent: nn.Module) -> list[str]:
    return [name for name, child in parent.named_children() if isinstance(child, nn.Linear)]


def _probe_shape(linear: nn.Linear) -> tuple[int, int]:
    return linear.in_features, min(linear.out_features, _PROBE_OUTPUTS)


@lru_cache(maxsize=64)
def find_row_tile(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, num_threads: int) -> int:
    """Return the smallest row tile that makes rows independent of each other on this CPU.

    Args:
        shapes: (inputs, outputs) of the model's linear layers; kernels are chosen by both.
        dtype: of weights and activations.
        num_threads: part of the key only: the answer may change with it.

    Returns:
        One of ``ROW_TILES``; the largest if none was seen to be enough.
    """
    return max(smallest_stable_tile(*_probe(num_inputs, num_outputs, dtype)) for num_inputs, num_outputs in shapes)


def smallest_stable_tile(function: RowFunction, x: Tensor) -> int:
    """Return the smallest tile such that any multiple of it gives each row of ``x`` the same bits."""
    whole = function(x)
    unstable = [m for m in _PROBE_ROWS if not _same_bits(function, x, whole, m)]
    return next((tile for tile in ROW_TILES if not any(m % tile == 0 for m in unstable)), ROW_TILES[-1])


def _same_bits(function: RowFunction, x: Tensor, whole: Tensor, rows: int) -> bool:
    """Return whether pieces of ``rows`` rows come out as in ``whole``; many pieces, as rounding hides small changes."""
    starts = range(0, len(x) - rows + 1, rows)[:_PROBE_CHUNKS]
    return all(torch.equal(function(x[start : start + rows]), whole[start : start + rows]) for start in starts)


def _probe(num_inputs: int, num_outputs: int, dtype: torch.dtype) -> tuple[RowFunction, Tensor]:
    generator = torch.Generator().manual_seed(num_inputs)
    weight = torch.randn(num_outputs, num_inputs, generator=generator).to(dtype)
    x = torch.randn(_PROBE_LENGTH, num_inputs, generator=generator).to(dtype)
    if can_pack(x.device, dtype):
        packed = pack_weight(weight)
        return lambda rows: packed_linear(rows, packed, None), x
    return lambda rows: F.linear(rows, weight), x
