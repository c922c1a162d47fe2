"""How many parameters a :class:`~steelyard.models.weights.source.WeightSource` holds, and in what formats."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.models.weights.source import WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatShare:
    """The tensors stored in one format.

    Attributes:
        format: the file's name for it, e.g. ``Q4_1``.
        num_tensors: how many.
        num_parameters: their elements.
        num_bytes: their bytes in the file.
    """

    format: str
    num_tensors: int
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class WeightsSummary:
    """A source's formats, the one with the most bytes first."""

    formats: tuple[FormatShare, ...]

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(share.num_parameters for share in self.formats)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(share.num_bytes for share in self.formats)

    @property
    def bits_per_parameter(self) -> float:
        """Mean bits that a parameter takes in the file; 0 if there are none."""
        return 8 * self.num_bytes / self.num_parameters if self.num_parameters else 0.0


def summarise(source: WeightSource) -> WeightsSummary:
    """Count a source's tensors by format; no tensor is read."""
    names: dict[str, list[str]] = {}
    for name in source.names():
        names.setdefault(source.format(name), []).append(name)
    shares = [_share(source, members) for members in names.values()]
    return WeightsSummary(tuple(sorted(shares, key=lambda share: (-share.num_bytes, share.format))))


def _share(source: WeightSource, names: list[str]) -> FormatShare:
    return FormatShare(
        format=source.format(names[0]),
        num_tensors=len(names),
        num_parameters=sum(math.prod(source.shape(name)) for name in names),
        num_bytes=sum(source.num_bytes(name) for name in names),
    )
