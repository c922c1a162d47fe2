"""The engine's configuration, fully resolved: :mod:`steelyard.engine.build` has settled every "auto" before."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.core.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much the engine takes on at once.

    Attributes:
        max_model_len: tokens of prompt and output together, per sequence.
        num_kv_blocks: blocks in the KV cache.
        block_size: tokens per KV block.
        max_num_seqs: sequences running at once.
        max_num_batched_tokens: tokens computed in one step; longer prompts are computed in chunks.
        max_waiting: sequences that may wait; beyond it submitting raises :class:`EngineBusyError`.
        enable_prefix_caching: share the KV of equal prefixes.
        overlap_steps: schedule each step while the one before runs (:meth:`.engine.Engine.overlapped_step`).
        seed: of the generator that draws seeds for requests without one.

    Raises:
        ParamsError: if a number is below 1.
        MemoryBudgetError: if the KV cache cannot hold one sequence of ``max_model_len``.
    """

    max_model_len: int
    num_kv_blocks: int
    block_size: int = 16
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_waiting: int = 4096
    enable_prefix_caching: bool = True
    overlap_steps: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        names = (
            "max_model_len", "num_kv_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_waiting",
        )  # fmt: skip
        for name in names:
            if getattr(self, name) < 1:
                raise ParamsError(f"{getattr(self, name)} is below 1", field=name, remedy="Give a positive number")
        needed = ceil_div(self.max_model_len, self.block_size)
        if needed > self.num_kv_blocks:
            raise MemoryBudgetError(
                f"{self.num_kv_blocks} KV blocks of {self.block_size} tokens cannot hold one sequence of "
                f"{self.max_model_len} tokens",
                field="max_model_len",
                remedy=f"Lower max_model_len to {self.num_kv_blocks * self.block_size} or enlarge the KV cache",
            )
