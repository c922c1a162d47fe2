"""Where each parameter of a decoder comes from: names, expected shapes, and how tensors are put together.

A :class:`Parameter` is planned for every parameter before any is read: its tensors are there, and have the shapes that
the configuration promises. What a file holds beyond that is reported, never guessed about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steelyard.core.errors import ModelError, WeightsError
from steelyard.kernels.packed_matrix import PACKED_FROM
from steelyard.models.config import ModelConfig, MoeConfig
from steelyard.models.decoder import Decoder
from steelyard.models.family import Recipe, RowOrder, WeightMap
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.source import WeightSource

_INDEX = re.compile(r"(layers|experts)\.(\d+)")
_LAYER_NORM, _EXPERT = "layers.{layer}.attention_norm", "layers.{layer}.mlp.experts.{expert}.down"
_QKV_KEYS = "hidden_size, num_attention_heads, num_key_value_heads or head_dim"
# Which keys of config.json a parameter's shape follows from.
_SHAPE_KEYS: Mapping[str, str] = {
    "embed": "vocab_size or hidden_size",
    "lm_head": "vocab_size or hidden_size",
    "positions": "max_position_embeddings or hidden_size",
    "qkv": _QKV_KEYS,
    "out": _QKV_KEYS,
    "q_norm": _QKV_KEYS,
    "k_norm": _QKV_KEYS,
    "gate_up": "hidden_size or intermediate_size",
    "up": "hidden_size or intermediate_size",
    "down": "hidden_size or intermediate_size",
    "router": "hidden_size or num_experts",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a parameter: its name in the file, the shape it must have there, and its rows' order."""

    source: str
    shape: tuple[int, ...]
    row_order: RowOrder


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter to be read.

    Attributes:
        name: its path in the decoder.
        expert: its index along the first dimension of stacked tensors; 0 if they are not stacked.
        head_dim: of its layer.
    """

    name: str
    shape: tuple[int, ...]
    recipe: Recipe
    parts: tuple[Part, ...]
    expert: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Quantised rows of a parameter as they lie in the file.

    Attributes:
        blocks: ``[rows, bytes per row]`` uint8.
        format: the file's name for it.
        rows: ``[rows]`` int64, which rows of the parameter they are.
    """

    blocks: npt.NDArray[np.uint8]
    format: str
    rows: Tensor


class ParameterSource:
    """Finds, checks and reads the parameters of one model.

    Args:
        config: the model.
        weights: its family's map.
        base: what ``{base}`` stands for.
        source: the file.
    """

    def __init__(self, config: ModelConfig, weights: WeightMap, base: str, source: WeightSource) -> None:
        self._config, self._weights, self._base, self._source = config, weights, base, source
        self._names = source.names()

    def check_extent(self) -> None:
        """Raise a :class:`ModelError` if the file has more layers or experts than the model, or fewer.

        Done before the decoder is built, whose size would otherwise be whatever the configuration claims.
        """
        layers = self._config.layers
        self._check_end(_LAYER_NORM, "num_hidden_layers", len(layers), layer=len(layers))
        for index, layer in enumerate(layers):
            if isinstance(layer.feed_forward, MoeConfig) and not self._weights[_EXPERT].stacked:
                count = layer.feed_forward.num_experts
                self._check_end(_EXPERT, "num_experts", count, layer=index, expert=count)

    def plan(self, name: str, shape: tuple[int, ...]) -> Parameter:
        """Return where a parameter comes from.

        Raises:
            WeightsError: if a tensor is missing.
            ModelError: if a tensor has another shape than the configuration says.
        """
        path, _, leaf = name.rpartition(".")
        found = {kind: int(index) for kind, index in _INDEX.findall(path)}
        layer, expert = found.get("layers", 0), found.get("experts", 0)
        recipe = self._weights[_INDEX.sub(lambda match: f"{match[1]}.{{{match[1][:-1]}}}", path)]
        names = [self._tensor_name(source, layer, expert, leaf) for source in recipe.sources]
        rows = self._part_rows(path, shape[0], len(names), layer)
        parts = []
        for index, (source, num_rows) in enumerate(zip(names, rows, strict=True)):
            stored = _stored_shape((num_rows, *shape[1:]), recipe, self._num_experts(layer))
            self._check_shape(source, stored, path)
            parts.append(Part(source, stored, recipe.row_order(index)))
        head_dim = self._config.layers[layer].attention.head_dim
        return Parameter(name, shape, recipe, tuple(parts), expert, head_dim)

    def read(self, parameter: Parameter, dtype: torch.dtype) -> Tensor:
        """Return the parameter in ``dtype``, on the CPU."""
        parts = [self._read_part(parameter, part, dtype) for part in parameter.parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.reshape(parameter.shape)

    def blocks(self, parameter: Parameter) -> tuple[StoredRows, ...] | None:
        """Return the parameter's rows in their stored blocks, or ``None`` if any of it is stored otherwise."""
        source, recipe = self._source, parameter.recipe
        if not isinstance(source, GGUFFile) or recipe.transposed or recipe.plus_one or len(parameter.shape) != 2:
            return None
        if any(source.format(part.source) not in PACKED_FROM for part in parameter.parts):
            return None
        found, first = [], 0
        for part in parameter.parts:
            stored = source.blocks(part.source)
            num_rows = part.shape[-2]
            if recipe.stacked:
                stored = stored[parameter.expert * num_rows : (parameter.expert + 1) * num_rows]
            order = reordered(torch.arange(num_rows), part.row_order, parameter.head_dim)
            found.append(StoredRows(stored, source.format(part.source), first + order.argsort()))
            first += num_rows
        return tuple(found)

    def forget(self, parameter: Parameter) -> None:
        """Give back the memory that the parameter's :meth:`blocks` take, once they are packed elsewhere."""
        if isinstance(self._source, GGUFFile):
            for part in parameter.parts:
                self._source.forget(part.source)

    def _read_part(self, parameter: Parameter, part: Part, dtype: torch.dtype) -> Tensor:
        recipe, expert = parameter.recipe, parameter.expert
        if recipe.stacked:
            return self._source.rows(part.source, expert, expert + 1, dtype)[0]
        if recipe.plus_one:
            return (1.0 + self._source.tensor(part.source, torch.float32)).to(dtype)
        tensor = self._source.tensor(part.source, dtype)
        if recipe.transposed and tensor.ndim == 2:
            tensor = tensor.T.contiguous()
        return reordered(tensor, part.row_order, parameter.head_dim)

    def _tensor_name(self, source: str, layer: int, expert: int, leaf: str) -> str:
        return f"{source.format(base=self._base, layer=layer, expert=expert)}.{leaf}"

    def _part_rows(self, path: str, num_rows: int, num_parts: int, layer: int) -> tuple[int, ...]:
        """Return how many rows each of a parameter's tensors contributes."""
        if num_parts == 1:
            return (num_rows,)
        if path.endswith(".qkv"):
            attention = self._config.layers[layer].attention
            return attention.q_size, attention.kv_size, attention.kv_size
        return (num_rows // num_parts,) * num_parts

    def _num_experts(self, layer: int) -> int:
        feed_forward = self._config.layers[layer].feed_forward
        return feed_forward.num_experts if isinstance(feed_forward, MoeConfig) else 0

    def _check_shape(self, source: str, expected: tuple[int, ...], path: str) -> None:
        if source not in self._names:
            raise WeightsError(
                "the tensor is missing from the weights",
                field=source,
                remedy="Check that the files are complete and belong to this model, or download them again",
            )
        found = self._source.shape(source)
        squeezed = expected[1:] if expected[0] == 1 else expected  # a projection to one number may be stored flat
        if found not in (expected, squeezed):
            keys = _SHAPE_KEYS.get(path.rpartition(".")[2], "hidden_size")
            raise ModelError(
                f"its shape is {list(found)}, but the configuration says {list(expected)}",
                field=source,
                remedy=f"Check {keys} in the configuration, and that it belongs to these weights",
            )

    def _check_end(self, template: str, key: str, count: int, **beyond: int) -> None:
        """Raise unless the file has what ``template`` names up to just before ``beyond``."""
        source = self._weights[template].sources[0]
        last = beyond | {("expert" if "expert" in beyond else "layer"): count - 1}
        has_last, has_more = (
            f"{source.format(base=self._base, **index)}.weight" in self._names for index in (last, beyond)
        )
        if has_more or not has_last:
            problem = f"it is {count}, but the weights hold {'more' if has_more else 'fewer'}"
            raise ModelError(problem, field=key, remedy="Check that configuration and weights are of one model")


def plan_parameters(module: Decoder, parameter_source: ParameterSource) -> tuple[Parameter, ...]:
    """Return where each parameter of ``module`` (on the meta device) comes from, in order; a tied one once."""
    return tuple(parameter_source.plan(name, tuple(value.shape)) for name, value in module.named_parameters())


def find_extras(
    plan: tuple[Parameter, ...], source: WeightSource, config: ModelConfig, ignored: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of tensors that no parameter uses and that are not known to be none, sorted."""
    used = {part.source for parameter in plan for part in parameter.parts}
    ignored = (*ignored, "lm_head.weight", "embed_out.weight") if config.tied_embeddings else ignored
    return tuple(sorted(name for name in source.names() - used if not name.endswith(ignored)))


def reordered(tensor: Tensor, order: RowOrder, head_dim: int) -> Tensor:
    """Return a projection's weight ``[rows, in]`` or bias ``[rows]`` with its rows in the decoder's order."""
    inner = tensor.shape[1:]
    if order is RowOrder.PAIRED:
        return tensor.reshape(-1, head_dim // 2, 2, *inner).transpose(1, 2).reshape(tensor.shape)
    if order is RowOrder.PER_HEAD:
        return tensor.reshape(-1, 3, head_dim, *inner).transpose(0, 1).reshape(tensor.shape)
    return tensor


def _stored_shape(shape: tuple[int, ...], recipe: Recipe, num_experts: int) -> tuple[int, ...]:
    if recipe.stacked:
        return (num_experts, *shape)
    return shape[::-1] if recipe.transposed else shape
