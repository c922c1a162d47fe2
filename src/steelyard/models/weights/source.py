"""What every reader of weight files offers: :class:`WeightSource`, tensors by name.

Names are the file's own; mapping them to a model's parameters is the model's business. Left out: writing, and
quantised tensors in their stored form.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from steelyard.core.errors import WeightsError

NAMES_SHOWN = 3


class WeightSource(Protocol):
    """Named tensors on disk. Shapes are in PyTorch's order, slowest dimension first.

    Every method that takes a name raises :class:`~steelyard.core.errors.WeightsError` for one that is not there.
    Nothing may be asked of a source after :meth:`close`.
    """

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape."""
        ...

    def num_bytes(self, name: str) -> int:
        """Return the bytes the tensor takes in the file."""
        ...

    def format(self, name: str) -> str:
        """Return the stored number format in the file's own spelling, e.g. ``Q4_1``, ``F32``, ``BF16``."""
        ...

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return the tensor, dequantised, on the CPU.

        Args:
            name: one of :meth:`names`.
            dtype: a floating-point dtype; values are rounded to it once.

        Returns:
            ``shape(name)``, contiguous. If the file stores this dtype the result may share the file's private memory
            map: writing to it never changes the file, but may be seen by a later call.

        Raises:
            WeightsError: if the format is not one that can be read, or the file cannot be read.
        """
        ...

    def rows(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return ``tensor(name, dtype)[start:stop]`` without reading the other rows.

        Args:
            name: one of :meth:`names`.
            start: first index along the first dimension.
            stop: index after the last one, ``0 ≤ start ≤ stop ≤ shape(name)[0]``.
            dtype: as in :meth:`tensor`.

        Raises:
            WeightsError: as for :meth:`tensor`.
        """
        ...

    def close(self) -> None:
        """Let go of the file. Tensors already returned stay valid."""
        ...


def missing_tensor(file: str, name: str, names: frozenset[str]) -> WeightsError:
    """Return the error for a tensor that ``file``, which holds ``names``, does not have."""
    some = ", ".join(sorted(names)[:NAMES_SHOWN])
    return WeightsError(
        f"there is no tensor of this name among {len(names)} ({some}, …)",
        field=f"{file}[{name}]",
        remedy="Check that the file is complete and of the model's architecture",
    )
