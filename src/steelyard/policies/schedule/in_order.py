"""What all scheduling policies share: continuous batching with chunked prefill, given an order of the sequences.

One step (iteration-level scheduling as in Orca, chunks that do not stall decodes as in Sarathi-Serve):

1. Running sequences are granted tokens in order: one per decode, a chunk per prefill. Chunks leave the tokens that
   decodes behind them need, except one token for the very first in order; and they leave the blocks, except one for
   whoever could not compute anything without.
2. Who needs a block while none is free takes it from the back of the order: the fewest last sequences whose preemption
   frees one. If no such exist, it is granted nothing and *keeps* its blocks: those before it go on, and preempt it when
   they need to. So nobody preempts itself, and what nobody claims is not computed twice.
3. If nobody was preempted, waiting sequences are admitted in order while seats, tokens and blocks last. The first that
   does not fit ends it, so that a big one is not passed for ever. Admission asks for the blocks of *all* tokens known
   of the newcomer, beside what running prefills still lack and one block to grow for each sequence, newcomer included;
   only if nothing runs is the block to grow waived. Admitted by its first chunk alone, a long prompt would be
   preempted half-way, again and again.

Progress: if every sequence alone fits in the whole cache, the first in order is granted tokens in every step, because
preempting all others frees all blocks but its own. Known tokens survive a preemption, so each decode is a gain for
good; an order that keeps the first one first until its next decode therefore cannot run in circles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from steelyard.core.units import ceil_div
from steelyard.policies.schedule.types import Grant, Schedule, SchedulerView, SequenceView

Rank = Callable[[SequenceView], tuple[float, ...]]
Displaces = Callable[[SequenceView, SequenceView], bool]


def schedule_in_order(view: SchedulerView, rank: Rank, displaces: Displaces | None = None) -> Schedule:
    """Return the step's schedule, sequences served in ascending ``rank``.

    Args:
        view: the engine's state; not changed.
        rank: a total order of running and waiting sequences: no two ranks are equal.
        displaces: whether a waiting sequence may take the place of a running one when seats or blocks are short;
            ``None`` for never. The place is made in one step and taken in a later one.
    """
    order = deque(_demand(view, sequence) for sequence in sorted(view.running, key=rank))
    ledger = _Ledger(view)
    if displaces is not None and view.waiting:
        _make_place(ledger, order, min(view.waiting, key=rank), displaces)
    num_committed = sum(demand.num_committed_blocks for demand in order)
    _grant_running(ledger, order)
    if not ledger.preempted:
        _admit(ledger, rank, num_committed)
    return Schedule(tuple(ledger.preempted), tuple(ledger.grants))


class _Demand(NamedTuple):
    """A running sequence and what it asks of the step.

    Attributes:
        sequence: the sequence.
        num_tokens: known tokens still to be computed; one for a decode.
        num_fitting: tokens that fit in the blocks it holds.
        num_missing_blocks: blocks it lacks for all its known tokens.
    """

    sequence: SequenceView
    num_tokens: int
    num_fitting: int
    num_missing_blocks: int

    @property
    def is_decode(self) -> bool:
        return self.num_tokens == 1

    @property
    def num_committed_blocks(self) -> int:
        """Blocks that admissions must leave to it: what it lacks, and one to grow."""
        return self.num_missing_blocks + 1


def _demand(view: SchedulerView, sequence: SequenceView) -> _Demand:
    num_tokens = sequence.num_tokens - sequence.num_computed_tokens
    num_fitting = view.num_held_blocks(sequence.id) * view.limits.block_size - sequence.num_computed_tokens
    num_missing = 0 if num_tokens <= num_fitting else ceil_div(num_tokens - num_fitting, view.limits.block_size)
    return _Demand(sequence, num_tokens, num_fitting, num_missing)


class _Ledger:
    """The step's account: what is decided, and what is left.

    Attributes:
        num_tokens_left: of the step's token budget.
        num_decodes_left: decodes whose turn has not come.
        num_decode_blocks_left: blocks they need.
    """

    def __init__(self, view: SchedulerView) -> None:
        self.view = view
        self.limits = view.limits
        self.preempted: list[int] = []
        self.grants: list[Grant] = []
        self.num_tokens_left = view.limits.max_num_batched_tokens
        self.num_decodes_left = 0
        self.num_decode_blocks_left = 0
        self._num_free = view.num_free_blocks
        self._num_used = 0
        self._num_released = 0

    @property
    def num_free_blocks(self) -> int:
        """Blocks free after all that is decided."""
        return self._num_free + self._num_released - self._num_used

    def expect(self, demand: _Demand, sign: int) -> None:
        """Count a decode among (``sign`` 1), or no longer among (−1), those whose turn is still to come."""
        if demand.is_decode:
            self.num_decodes_left += sign
            self.num_decode_blocks_left += sign * demand.num_missing_blocks

    def affordable_tokens(self, demand: _Demand, *, at_front: bool) -> int:
        """Return the tokens that the budget has for a sequence whose turn it is."""
        if demand.is_decode:
            return min(1, self.num_tokens_left)
        spare = self.num_tokens_left - self.num_decodes_left
        return max(0, min(demand.num_tokens, max(spare, int(at_front))))

    def grant(self, demand: _Demand, num_tokens: int) -> None:
        """Grant a running sequence as many of ``num_tokens`` as blocks allow; there must be room for one."""
        spare = self.num_free_blocks - self.num_decode_blocks_left
        num_blocks = max(spare, int(demand.num_fitting == 0))
        num_granted = min(num_tokens, demand.num_fitting + max(0, num_blocks) * self.limits.block_size)
        self._num_used += max(0, ceil_div(num_granted - demand.num_fitting, self.limits.block_size))
        self.add(demand.sequence, num_granted)

    def add(self, sequence: SequenceView, num_tokens: int) -> None:
        """Write down a grant."""
        self.num_tokens_left -= num_tokens
        self.grants.append(Grant(sequence.id, num_tokens))

    def num_free_without(self, victims: Sequence[_Demand]) -> int:
        """Return the blocks that would be free if ``victims`` were preempted as well."""
        ids = (*self.preempted, *(victim.sequence.id for victim in victims))
        return self._num_free - self._num_used + self.view.num_releasable_blocks(*ids)

    def preempt_last(self, order: deque[_Demand], count: int) -> None:
        """Take the last ``count`` sequences out of ``order`` and preempt them."""
        self.preempted.extend(order.pop().sequence.id for _ in range(count))
        self._num_released = self.view.num_releasable_blocks(*self.preempted)


def _grant_running(ledger: _Ledger, order: deque[_Demand]) -> None:
    """Serve the running sequences in order, each from what those before it left."""
    for demand in order:
        ledger.expect(demand, 1)
    at_front = True
    while order:
        demand = order.popleft()
        ledger.expect(demand, -1)
        num_tokens = ledger.affordable_tokens(demand, at_front=at_front)
        if num_tokens == 0:
            continue
        at_front = False
        if demand.num_fitting > 0 or ledger.num_free_blocks > 0 or _preempt_for_block(ledger, order):
            ledger.grant(demand, num_tokens)


def _preempt_for_block(ledger: _Ledger, order: deque[_Demand]) -> bool:
    """Preempt the fewest last sequences that free a block; return False, preempting none, if all would not do."""
    victims: list[_Demand] = []
    for candidate in reversed(order):
        victims.append(candidate)
        if ledger.num_free_without(victims) > 0:
            for victim in victims:
                ledger.expect(victim, -1)
            ledger.preempt_last(order, len(victims))
            return True
    return False


def _admit(ledger: _Ledger, rank: Rank, num_committed: int) -> None:
    """Admit waiting sequences in order while seats, tokens and blocks last."""
    view, block_size = ledger.view, ledger.limits.block_size
    num_seats = ledger.limits.max_num_seqs - len(view.running)
    if num_seats <= 0 or ledger.num_tokens_left == 0:
        return
    num_spare = view.num_free_blocks - num_committed
    num_growth = 1 if view.running else 0
    for sequence in sorted(view.waiting, key=rank)[:num_seats]:
        prefix = view.cached_prefix(sequence.id)
        num_new = sequence.num_tokens - prefix.num_tokens
        num_needed = prefix.num_idle_blocks + ceil_div(num_new, block_size)
        if ledger.num_tokens_left == 0 or num_needed + num_growth > num_spare:
            return
        ledger.add(sequence, min(num_new, ledger.num_tokens_left))
        num_spare -= num_needed + 1
        num_growth = 1


def _make_place(ledger: _Ledger, order: deque[_Demand], newcomer: SequenceView, displaces: Displaces) -> None:
    """Preempt the fewest last sequences that give ``newcomer`` a seat and its blocks, if it may displace them all."""
    num_needed = ceil_div(newcomer.num_tokens, ledger.limits.block_size)
    prefix = ledger.view.cached_prefix(newcomer.id)
    num_shared = prefix.num_tokens // ledger.limits.block_size - prefix.num_idle_blocks
    num_committed = sum(demand.num_committed_blocks for demand in order)
    victims: list[_Demand] = []
    while True:
        num_growth = 1 if len(victims) < len(order) else 0
        num_free = ledger.num_free_without(victims) if victims else ledger.num_free_blocks
        has_seat = len(order) - len(victims) < ledger.limits.max_num_seqs
        if has_seat and num_needed - num_shared + num_growth + num_committed <= num_free:
            ledger.preempt_last(order, len(victims))
            return
        if len(victims) == len(order) or not displaces(newcomer, order[-1 - len(victims)].sequence):
            return
        victim = order[-1 - len(victims)]
        victims.append(victim)
        num_committed -= victim.num_committed_blocks
        num_shared = 0  # a victim may be the only one that holds the shared prefix
