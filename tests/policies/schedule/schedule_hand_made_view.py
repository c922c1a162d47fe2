"""A scheduler's view written out by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from steelyard.core.kv import CachedPrefix
from steelyard.policies.schedule.types import ScheduleLimits


@dataclass(frozen=True)
class Seq:
    id: int
    num_tokens: int
    num_computed_tokens: int = 0
    num_prompt_tokens: int = 1
    priority: int = 0
    arrival_s: float = 0.0
    tenant: str = ""


@dataclass
class View:
    """Blocks of four tokens; a running sequence holds the blocks given by name in ``tables``."""

    running: list[Seq] = field(default_factory=list)
    waiting: list[Seq] = field(default_factory=list)
    tables: dict[int, str] = field(default_factory=dict)
    num_free_blocks: int = 100
    max_num_seqs: int = 8
    budget: int = 100
    prefixes: dict[int, CachedPrefix] = field(default_factory=dict)
    peeked: list[int] = field(default_factory=list)
    now_s: float = 0.0

    @property
    def limits(self) -> ScheduleLimits:
        return ScheduleLimits(max_num_seqs=self.max_num_seqs, max_num_batched_tokens=self.budget, block_size=4)

    def num_held_blocks(self, sequence_id: int) -> int:
        return len(self.tables[sequence_id])

    def num_releasable_blocks(self, *sequence_ids: int) -> int:
        others = "".join(table for name, table in self.tables.items() if name not in sequence_ids)
        return len({block for name in sequence_ids for block in self.tables[name] if block not in others})

    def cached_prefix(self, sequence_id: int) -> CachedPrefix:
        self.peeked.append(sequence_id)
        return self.prefixes.get(sequence_id, CachedPrefix())
