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
_PROBE_ROWS = (*range(1, 18), 24, 31, 32, 33, 44, 48, 63, 64, 65, 96, 100, 128, 159)
_PROBE_LENGTH = 160
_PROBE_WIDTH = 640
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
    """Replace every ``nn.Linear`` under ``model`` by its prepared form, in place, and return the row tile in use."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linears or linears[0].weight.device.type != "cpu":
        return 1
    dtype, widths = linears[0].weight.dtype, tuple(sorted({m.in_features for m in linears}))
    row_tile = find_row_tile(widths, dtype, torch.get_num_threads())
    kind = PackedLinear if can_pack(linears[0].weight.device, dtype) else TiledLinear
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, kind(child, row_tile))
    return row_tile


@lru_cache(maxsize=64)
def find_row_tile(widths: tuple[int, ...], dtype: torch.dtype, num_threads: int) -> int:
    """Return the smallest row tile that makes rows independent of each other on this CPU.

    Args:
        widths: inner sizes (``in_features``) that the model uses.
        dtype: of weights and activations.
        num_threads: part of the key only: the answer may change with it.

    Returns:
        One of ``ROW_TILES``; the largest if none was seen to be enough.
    """
    functions = [_probe(width, dtype) for width in widths]
    tile = 1
    for function, x in functions:
        tile = max(tile, smallest_stable_tile(function, x))
    return tile


def smallest_stable_tile(function: RowFunction, x: Tensor) -> int:
    """Return the smallest tile such that any multiple of it gives each row of ``x`` the same bits."""
    whole = function(x)
    unstable = [m for m in _PROBE_ROWS if not torch.equal(function(x[:m]), whole[:m])]
    return next((tile for tile in ROW_TILES if not any(m % tile == 0 for m in unstable)), ROW_TILES[-1])


def _probe(width: int, dtype: torch.dtype) -> tuple[RowFunction, Tensor]:
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(_PROBE_WIDTH, width, generator=generator).to(dtype)
    x = torch.randn(_PROBE_LENGTH, width, generator=generator).to(dtype)
    if can_pack(x.device, dtype):
        packed = pack_weight(weight)
        return lambda rows: packed_linear(rows, packed, None), x
    return lambda rows: F.linear(rows, weight), x
