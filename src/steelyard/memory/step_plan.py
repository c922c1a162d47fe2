"""Where each token of a step goes in the paged KV cache, and which queries attend together.

Built once per step from the batch and used by every layer. Queries are cut into tiles of at most
:data:`QUERY_TILE` positions of one sequence; tiles with equally many queries and similar contexts form an
:class:`AttentionGroup` that one call serves. A decode token is a tile of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.core.batch import SequenceWork
from steelyard.core.units import ceil_div, round_up
from steelyard.kernels.attention import KEY_MULTIPLE, additive_mask

QUERY_TILE = 128
# A group is closed when a context would be padded to more than this multiple of itself …
_MAX_PADDING = 1.5
# … or when its gathered keys and its mask would grow past these numbers of elements.
_MAX_GROUP_BLOCKS = 4096
_MAX_MASK_ELEMENTS = 1 << 24


class _Tile(NamedTuple):
    row: int
    position: int
    num_queries: int
    blocks: tuple[int, ...]


@dataclass(slots=True)
class AttentionGroup:
    """Tiles that one attention call serves.

    Attributes:
        rows: ``[batch · queries]`` int64 rows in the packed step, or a slice where they are consecutive.
        positions: ``[batch, queries]`` int64.
        blocks: ``[batch · blocks_each]`` int64 into the store; shorter contexts end in padding blocks.
        num_keys: keys per tile, a multiple of the block size and of ``KEY_MULTIPLE``.
    """

    rows: Tensor | slice
    positions: Tensor
    blocks: Tensor
    num_keys: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the ``[batch, queries, keys]`` additive mask for a window, made once per step."""
        if window not in self._masks:
            self._masks[window] = additive_mask(self.positions, self.num_keys, window, dtype)
        return self._masks[window]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step's KV plan.

    Attributes:
        slots: ``[tokens]`` int64, ``block · block_size + offset`` of each packed token.
        groups: attention calls; together they cover every packed token once.
    """

    slots: Tensor
    groups: tuple[AttentionGroup, ...]


def plan_step(works: Iterable[SequenceWork], block_size: int, padding_block: int, device: torch.device) -> StepPlan:
    """Return the plan for ``works``, packed in the order given."""
    slots: list[int] = []
    tiles: list[_Tile] = []
    for work in works:
        tiles.extend(_tiles(work, len(slots), block_size))
        slots.extend(_slots(work, block_size))
    groups = tuple(_build(group, block_size, padding_block, device) for group in _grouped(tiles, block_size))
    return StepPlan(torch.tensor(slots, dtype=torch.int64, device=device), groups)


def _slots(work: SequenceWork, block_size: int) -> Iterator[int]:
    table = work.block_table
    return (table[p // block_size] * block_size + p % block_size for p in range(work.start, work.end))


def _tiles(work: SequenceWork, row: int, block_size: int) -> Iterator[_Tile]:
    for start in range(work.start, work.end, QUERY_TILE):
        end = min(start + QUERY_TILE, work.end)
        yield _Tile(row + start - work.start, start, end - start, work.block_table[: ceil_div(end, block_size)])


def _grouped(tiles: list[_Tile], block_size: int) -> Iterator[list[_Tile]]:
    """Yield tiles of equally many queries, long contexts first, cut where padding or memory would be wasted."""
    tiles = sorted(tiles, key=lambda tile: (tile.num_queries, -len(tile.blocks), tile.row))
    for num_queries, same in groupby(tiles, key=lambda tile: tile.num_queries):
        group: list[_Tile] = []
        for tile in same:
            if group and not _fits(group, tile, num_queries, block_size):
                yield group
                group = []
            group.append(tile)
        yield group


def _fits(group: list[_Tile], tile: _Tile, num_queries: int, block_size: int) -> bool:
    widest, count = len(group[0].blocks), len(group) + 1
    return (
        widest <= _MAX_PADDING * len(tile.blocks) + 1
        and widest * count <= _MAX_GROUP_BLOCKS
        and widest * count * block_size * num_queries <= _MAX_MASK_ELEMENTS
    )


def _build(group: list[_Tile], block_size: int, padding_block: int, device: torch.device) -> AttentionGroup:
    group = sorted(group, key=lambda tile: tile.row)
    queries = group[0].num_queries
    widest = round_up(max(len(tile.blocks) for tile in group), KEY_MULTIPLE // gcd(KEY_MULTIPLE, block_size))
    blocks = [tile.blocks + (padding_block,) * (widest - len(tile.blocks)) for tile in group]
    first = torch.tensor([tile.position for tile in group], device=device)
    return AttentionGroup(
        rows=_rows(group, queries, device),
        positions=first[:, None] + torch.arange(queries, device=device),
        blocks=torch.tensor(blocks, device=device).view(-1),
        num_keys=widest * block_size,
    )


def _rows(group: list[_Tile], queries: int, device: torch.device) -> Tensor | slice:
    first, last = group[0].row, group[-1].row + queries
    if last - first == len(group) * queries:
        return slice(first, last)
    start = torch.tensor([tile.row for tile in group], device=device)
    return (start[:, None] + torch.arange(queries, device=device)).view(-1)
