"""Linear layers and embeddings whose weights stay quantised, in the places of a decoder's ordinary ones.

A weight stays in the file's own blocks, repacked for this CPU (:mod:`steelyard.kernels.qlinear`), or is quantised while
it is loaded. Activations are quantised to 8 bits per block on the way in. What cannot stay quantised (norms, routers,
stored formats without a kernel) is loaded as usual.

On CUDA devices only the weights are quantised, and only once loaded: :mod:`steelyard.engine.build` does it, by
``kernels/triton/linear.py``. Here these forms are only named and settled.

Gate and up rows are interleaved in panels of 16, so that a kernel that makes both can combine them; the
plain forward here puts the columns back in the decoder's order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.core.errors import ParamsError
from steelyard.kernels.native import native_available
from steelyard.kernels.packed_matrix import PACKED_FROM, PANEL_WIDTH, Allocator, PackedMatrix, alternating_rows
from steelyard.kernels.qlinear import feature_group_norms, largest_of_fine, qlinear, qlinear_fine
from steelyard.kernels.triton_available import triton_serves
from steelyard.models.layers import GatedMlp
from steelyard.models.parameters import Parameter, ParameterSource
from steelyard.models.weights.source import WeightSource


class Quantization(Enum):
    """What the weights of linear layers are held as.

    NONE: the model's dtype. STORED: the file's blocks where it has any. W8A8, W4A8: 8 or 4 bits, from whatever the file
    holds; these three compute with 8-bit activations, on the CPU. INT8, INT4: 8 or 4 bits with activations as they are,
    on CUDA.
    """

    NONE = "none"
    STORED = "stored"
    W8A8 = "w8a8"
    W4A8 = "w4a8"
    INT8 = "int8"
    INT4 = "int4"


WEIGHT_ONLY: Mapping[Quantization, tuple[int, int]] = {Quantization.INT8: (8, 128), Quantization.INT4: (4, 32)}
"""Bits, and inputs that share a scale: few with 4 bits, as codes are only rounded, never chosen by their effect."""
_FLOAT_FORMATS = {Quantization.W8A8: "q8", Quantization.W4A8: "q4"}
# Upper bounds: a block's quants with a scale and a minimum of four bytes each.
_BYTES_PER_WEIGHT = {Quantization.W8A8: 1.25, Quantization.W4A8: 0.75}
_MOST_GROWTH = 1.5


class QuantisedLinear(nn.Module):
    """``x @ weightᵀ + bias`` with a packed weight.

    Args:
        packed: the weight, rows in the order of ``places``.
        places: ``[out_features]`` int64, where in the packed matrix each output's row is; ``None`` if as in the layer.
        fine: whether activations take two steps of 8 bits, the second for what the first leaves. It costs arithmetic
            but no further reading of weights, so it is for the output projection, which meets few rows and whose
            rounding nothing after it averages out.
    """

    def __init__(self, packed: PackedMatrix, places: Tensor | None = None, *, fine: bool = False) -> None:
        super().__init__()
        self.packed, self.places, self.fine = packed, places, fine
        self.in_features, self.out_features = packed.num_inputs, packed.num_rows
        self.bias: nn.Parameter | None
        self.register_parameter("bias", None)
        self._norms: Tensor | None = None

    @property
    def interleaved(self) -> bool:
        """Whether gate and up rows alternate in panels."""
        return self.places is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[rows, out_features]`` float32 of ``x`` ``[rows, in_features]``."""
        out = (qlinear_fine if self.fine else qlinear)(x, self.packed)
        if self.places is not None:
            out = out[:, self.places]
        return out if self.bias is None else out + self.bias

    @property
    def finds_largest(self) -> bool:
        """Whether :meth:`largest` can be asked."""
        return self.fine and self.places is None and self.bias is None and native_available()

    def largest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest element of each row of :meth:`forward`, to the bit, and its position, for less."""
        if self._norms is None:
            self._norms = feature_group_norms(self.packed)
        return largest_of_fine(x, self.packed, self._norms)


class QuantisedEmbedding(nn.Module):
    """Rows of a packed matrix by number."""

    def __init__(self, packed: PackedMatrix) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return ``[tokens, width]`` float32 of ``token_ids`` ``[tokens]``."""
        return self.packed.rows(token_ids)


def settle_quantization(name: str, *, device: torch.device, dtype: str, stored_blocks: bool) -> Quantization:
    """Return what a user's word means here: ``auto`` keeps a file's blocks where the native kernels can use them.

    Args:
        name: ``auto`` or a value of :class:`Quantization`.
        device: where the model will run.
        dtype: the user's word for it; asking for one asks for computing in it.
        stored_blocks: whether the file holds quantised blocks.

    Raises:
        ParamsError: if the word is unknown, or asks for what this machine or file has not.
    """
    can = device.type == "cpu" and native_available()
    if name == "auto":
        return Quantization.STORED if can and stored_blocks and dtype == "auto" else Quantization.NONE
    words = ["auto", *(one.value for one in Quantization)]
    if name not in words:
        raise ParamsError(f"{name!r} is not known", field="quantization", remedy=f"Use one of {', '.join(words)}")
    chosen = Quantization(name)
    if chosen in WEIGHT_ONLY:
        _check_weight_only(chosen, device)
        return chosen
    if chosen is Quantization.NONE:
        return chosen
    if not can:
        raise ParamsError(
            f"{name!r} needs the compiled kernels and a CPU device",
            field="quantization",
            remedy="Use none (or int8 or int4 on CUDA), or install with a C++ compiler and run with device cpu",
        )
    if dtype not in ("auto", "float32"):
        remedy = "Leave dtype out, or use quantization none"
        raise ParamsError(f"{dtype!r} does not go with quantization {name!r}", field="dtype", remedy=remedy)
    if chosen is Quantization.STORED and not stored_blocks:
        remedy = "Use w8a8 or w4a8 to quantise it, or none"
        raise ParamsError("the file holds no quantised blocks", field="quantization", remedy=remedy)
    return chosen


def _check_weight_only(chosen: Quantization, device: torch.device) -> None:
    if device.type != "cuda":
        remedy = "Use w8a8 or w4a8, which the CPU has, or run with device cuda"
        raise ParamsError(f"{chosen.value!r} needs a CUDA device", field="quantization", remedy=remedy)
    if not triton_serves(device):
        remedy = "Install steelyard[cuda], or use none"
        raise ParamsError(f"{chosen.value!r} needs Triton", field="quantization", remedy=remedy)


def holds_blocks(source: WeightSource) -> bool:
    """Return whether any tensor of a file is in quantised blocks that there are kernels for."""
    return any(source.format(name) in PACKED_FROM for name in source.names())


def held_bytes(source: WeightSource, quantization: Quantization, dtype: torch.dtype) -> int:
    """Return the memory that a file's weights will take, a little more rather than less; no tensor is read.

    Weight-only forms count as ``dtype``: they are loaded in it first.
    """
    return sum(_held_bytes(source, name, quantization, dtype) for name in source.names())


def _held_bytes(source: WeightSource, name: str, quantization: Quantization, dtype: torch.dtype) -> int:
    shape = source.shape(name)
    num_elements = math.prod(shape)
    if quantization is Quantization.STORED and source.format(name) in PACKED_FROM:
        return int(_MOST_GROWTH * source.num_bytes(name))
    if quantization in _FLOAT_FORMATS and len(shape) > 1:
        return int(_BYTES_PER_WEIGHT[quantization] * num_elements)
    return num_elements * dtype.itemsize


def quantise_parameter(
    module: nn.Module,
    parameter: Parameter,
    source: ParameterSource,
    quantization: Quantization,
    allocate: Allocator,
) -> bool:
    """Put a quantised layer in the place of the one that ``parameter`` is the weight of, if it can be one.

    Args:
        module: the decoder.
        parameter: any of its parameters.
        source: reads it.
        quantization: what weights are to be held as.
        allocate: where packed matrices go.

    Returns:
        Whether it was done; if not, the parameter is to be loaded as usual.
    """
    path, _, leaf = parameter.name.rpartition(".")
    whole = quantization is Quantization.NONE or quantization in WEIGHT_ONLY
    if whole or leaf != "weight" or path.endswith(("router", "shared_gate", "positions")):
        return False
    if not isinstance(module.get_submodule(path), nn.Linear | nn.Embedding):
        return False
    places = _interleaved_places(module, path, parameter.shape[0])
    packed = _pack(parameter, source, quantization, places, allocate)
    if packed is None:
        return False
    put_packed(module, path, packed)
    return True


def put_packed(module: nn.Module, path: str, packed: PackedMatrix) -> None:
    """Put a layer with the weight ``packed`` in the place of the decoder's linear layer or embedding at ``path``.

    The rows of a gated network's first projection must alternate in panels, as :func:`quantise_parameter` packs them.
    """
    made: nn.Module
    if isinstance(module.get_submodule(path), nn.Linear):
        places = _interleaved_places(module, path, packed.num_rows)
        made = QuantisedLinear(packed, places, fine=path == "lm_head")
    else:
        made = QuantisedEmbedding(packed)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, made)


def _pack(
    parameter: Parameter,
    source: ParameterSource,
    quantization: Quantization,
    places: Tensor | None,
    allocate: Allocator,
) -> PackedMatrix | None:
    where = (torch.arange(parameter.shape[0]) if places is None else places).to(torch.int32)
    if quantization is Quantization.STORED:
        parts = source.blocks(parameter)
        if parts is None:
            return None
        placed = [(part.blocks, part.format, where[part.rows].numpy()) for part in parts]
        packed = PackedMatrix.from_gguf(placed, allocate=allocate)
        source.forget(parameter)
        return packed
    weight = source.read(parameter, torch.float32)
    return PackedMatrix.from_float(weight, _FLOAT_FORMATS[quantization], where.numpy(), allocate=allocate)


def _interleaved_places(module: nn.Module, path: str, num_rows: int) -> Tensor | None:
    """Return where each row of a gated network's first projection goes, or ``None`` for all other layers."""
    parent, _, name = path.rpartition(".")
    size = num_rows // 2
    if name != "gate_up" or size % PANEL_WIDTH or not isinstance(module.get_submodule(parent), GatedMlp):
        return None
    return torch.from_numpy(np.concatenate(alternating_rows(size))).long()
