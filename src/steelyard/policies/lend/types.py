"""What a lending policy sees and what it decides.

Whoever manages a pool of engines asks a policy at regular intervals which engine shall lend KV blocks to which (S34,
Infinite-LLM). The policy is shown every instance's memory, its batch, what waits there for memory, and how long its
steps take; it answers with loans, which the manager enters in the ledger and the engines carry out. It never sees a
clock, tensors or the ledger itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.kv import Loan


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """How long an instance's decoding steps take, as far as a policy needs to know.

    Attributes:
        weights_s: reading the weights, whoever shares them.
        sequence_s: computing one sequence's token.
        block_s: attending to one KV block.
        exchange_s: asking other instances for their part of the attention, per step that does.
    """

    weights_s: float
    sequence_s: float
    block_s: float
    exchange_s: float

    def step_s(self, batch_size: int, num_here: int, num_away: int) -> float:
        """Return what a step takes.

        Args:
            batch_size: sequences that each get a token.
            num_here: KV blocks that this instance attends to, its guests' included.
            num_away: of its own sequences' blocks elsewhere, those of the lender that has most, at this instance's
                pace; lenders attend at the same time as it does.
        """
        away_s = num_away * self.block_s + self.exchange_s if num_away else 0.0
        return max(self.weights_s, batch_size * self.sequence_s) + max(num_here * self.block_s, away_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingView:
    """A sequence that waits for memory.

    Attributes:
        id: rises with arrival over all instances.
        num_blocks: that it needs in all.
        num_borrowed: of them that were lent for it already.
    """

    id: int
    num_blocks: int
    num_borrowed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """An engine as policies see it.

    Attributes:
        id: its name.
        num_blocks: KV blocks that it has.
        num_free_blocks: of them that are neither used nor lent.
        batch_size: sequences that run.
        num_here_blocks: KV blocks that it attends to in each step, its guests' included.
        num_away_blocks: of its sequences' blocks elsewhere, those of the lender that has most.
        waiting: sequences that wait for memory, in the order in which they will get it.
        times: of its steps.
    """

    id: str
    num_blocks: int
    num_free_blocks: int
    times: StepTimes
    batch_size: int = 0
    num_here_blocks: int = 0
    num_away_blocks: int = 0
    waiting: tuple[WaitingView, ...] = ()


class LendPolicy(Protocol):
    """Decides who lends to whom."""

    def __call__(self, instances: Sequence[InstanceView]) -> tuple[Loan, ...]:
        """Return the loans to be made now, on top of those that there are.

        Each is from an instance's free blocks to another instance, for a sequence that waits there and lacks as many;
        no instance lends and borrows in one decision.
        """
