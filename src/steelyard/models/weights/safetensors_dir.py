"""The safetensors of a Hugging Face directory as a :class:`~steelyard.models.weights.source.WeightSource`.

One file or several shards. The ``safetensors`` library reads and checks each file; this module finds the files, and
checks the index that binds shards together. Left out on purpose: ``pytorch_model.bin``, because a pickle runs code
when it is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steelyard.core.errors import WeightsError
from steelyard.core.units import MIB, ceil_div, format_bytes
from steelyard.models.weights.source import missing_tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_INDEX_BYTES = 64 * MIB
READABLE_FORMATS = ("F64", "F32", "F16", "BF16")

_DOWNLOAD_AGAIN = "Download the directory again"
_Shard: TypeAlias = Any  # safetensors ships no types for its open files


class SafetensorsDir:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` lists.

    Attributes:
        path: the directory.

    Args:
        path: the directory.

    Raises:
        WeightsError: if there are no safetensors, or a file or the index is missing, unreadable or unsound.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shards: dict[str, _Shard] = _open_all(self.path)

    def names(self) -> frozenset[str]:
        """See :meth:`WeightSource.names`."""
        return frozenset(self._shards)

    def shape(self, name: str) -> tuple[int, ...]:
        """See :meth:`WeightSource.shape`."""
        return tuple(self._slice(name).get_shape())

    def num_bytes(self, name: str) -> int:
        """See :meth:`WeightSource.num_bytes`."""
        return ceil_div(math.prod(self.shape(name)) * _bits(self.format(name)), 8)

    def format(self, name: str) -> str:
        """See :meth:`WeightSource.format`; safetensors' dtype, e.g. ``BF16``."""
        return str(self._slice(name).get_dtype())

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """See :meth:`WeightSource.tensor`."""
        assert dtype.is_floating_point
        self._check_format(name)
        found: Tensor = self._shards[name].get_tensor(name)
        return found.to(dtype)

    def rows(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """See :meth:`WeightSource.rows`."""
        assert dtype.is_floating_point
        self._check_format(name)
        assert 0 <= start <= stop <= self.shape(name)[0]
        found: Tensor = self._slice(name)[start:stop]
        return found.to(dtype)

    def close(self) -> None:
        """See :meth:`WeightSource.close`."""
        self._shards = {}

    def _slice(self, name: str) -> Any:
        if name not in self._shards:
            raise missing_tensor(self.path.name, name, self.names())
        return self._shards[name].get_slice(name)

    def _check_format(self, name: str) -> None:
        if self.format(name) not in READABLE_FORMATS:
            raise WeightsError(
                f"its format, {self.format(name)}, cannot be read as weights",
                field=f"{self.path.name}[{name}]",
                remedy=f"Use a model stored in one of {', '.join(READABLE_FORMATS)}",
            )


def _bits(format: str) -> int:
    """Return the bits of one number: safetensors names its dtypes by them (``F8_E4M3``, ``BF16``)."""
    if format == "BOOL":
        return 8
    digits = re.match(r"[A-Z]+(\d+)", format)
    assert digits is not None
    return int(digits[1])


def _open_all(path: Path) -> dict[str, _Shard]:
    """Return tensor name → open file."""
    if (path / SINGLE_FILE).is_file():
        shard = _open(path / SINGLE_FILE)
        return dict.fromkeys(shard.keys(), shard)
    if not (path / INDEX_FILE).is_file():
        raise _nothing_found(path)
    weight_map = _read_index(path / INDEX_FILE)
    shards = {file: _open(_checked(path, file)) for file in sorted(set(weight_map.values()))}
    present = {file: frozenset(shard.keys()) for file, shard in shards.items()}
    for name, file in weight_map.items():
        if name not in present[file]:
            raise missing_tensor(file, name, present[file])
    return {name: shards[file] for name, file in weight_map.items()}


def _open(path: Path) -> _Shard:
    """Open one safetensors file; the library compares its header with its size."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        problem = f"the file cannot be read: {error}".rstrip(".")
        raise WeightsError(problem, field=path.name, remedy=_DOWNLOAD_AGAIN) from error


def _read_index(path: Path) -> Mapping[str, str]:
    """Return the index's tensor name → shard file name."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            limit = format_bytes(MAX_INDEX_BYTES)
            raise WeightsError(f"the index is over the limit of {limit}", field=path.name, remedy=_DOWNLOAD_AGAIN)
        index = json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        problem = f"the index cannot be read: {type(error).__name__}"
        raise WeightsError(problem, field=path.name, remedy=_DOWNLOAD_AGAIN) from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    is_map = isinstance(weight_map, dict) and all(isinstance(file, str) for file in weight_map.values())
    if not weight_map or not is_map:
        problem = "weight_map is missing, empty, or not a table from tensor to file"
        raise WeightsError(problem, field=path.name, remedy=_DOWNLOAD_AGAIN)
    return {str(name): str(file) for name, file in weight_map.items()}


def _checked(path: Path, file: str) -> Path:
    """Return the path of a shard that the index names; it lies directly in the directory."""
    is_plain = file.endswith(".safetensors") and file.isprintable() and not set(file) & set("/\\:")
    if not is_plain:
        problem = f"the shard name {file[:80]!r} is not the name of a safetensors file in this directory"
        raise WeightsError(
            problem, field=INDEX_FILE, remedy="Do not use this model: its index is not what it should be"
        )
    if not (path / file).is_file():
        raise WeightsError("the shard is missing", field=file, remedy=_DOWNLOAD_AGAIN)
    return path / file


def _nothing_found(path: Path) -> WeightsError:
    """Return the error for a directory without safetensors."""
    if not path.is_dir():
        return WeightsError("there is no such directory", field=str(path), remedy="Check the path")
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        return WeightsError(
            f"the weights are only there as {pickles[0]}, and reading a pickle runs the code in it",
            field=str(path),
            remedy="Use a revision of the model with safetensors, or convert it where you trust it",
        )
    problem = f"there is neither {SINGLE_FILE} nor {INDEX_FILE}"
    return WeightsError(problem, field=str(path), remedy="Give a directory with the model's safetensors")
