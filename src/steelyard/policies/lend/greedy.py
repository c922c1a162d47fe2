"""From instances short of batch to instances short of memory, as long as the pool gets faster (S34, arXiv:2401.02669).

A step reads the weights however few sequences share them, so an instance full of long contexts wastes them, while one
with short contexts has memory that makes it no faster. Borrowers are asked in the order of their batch, smallest first;
each waiting sequence takes what it lacks from the instances with most free blocks. A loan is made if the tokens per
second that the borrower gains by running the sequence are more than those that lenders lose by attending for it, both
by :class:`~steelyard.policies.lend.types.StepTimes`.

A sequence that is too long for its instance is another matter: nowhere can it run alone, so nothing is weighed. The
oldest of them takes all that it lacks, or as much as there is, and is given the rest as memory comes free. Only one is
so gathered for at a time; two that each hold half of the pool would wait for each other.

The paper describes its rule in words and an algorithm that we know only in outline: gains by a performance model,
smallest batch and fullest memory first. Its borrowers also move tokens of running sequences away; ours place a sequence
once, as it begins. Gathering for one over-long sequence at a time is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from steelyard.core.errors import ParamsError
from steelyard.core.kv import Loan
from steelyard.policies.lend.types import InstanceView, LendPolicy, WaitingView

DEFAULT_RESERVE_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyConfig:
    """Parameters of :class:`Greedy`.

    Attributes:
        reserve_share: of its blocks that a lender keeps free for requests of its own, from 0 to below 1; not kept from
            a sequence that is too long for its instance.

    Raises:
        ParamsError: if it is out of range.
    """

    reserve_share: float = DEFAULT_RESERVE_SHARE

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_share < 1:
            problem = f"{self.reserve_share} is not a share below 1"
            raise ParamsError(problem, field="reserve_share", remedy="Give a number from 0 to below 1")


@dataclass(slots=True)
class _Desk:
    """An instance while a decision is being made: its view, and what the decision changed so far."""

    view: InstanceView
    num_free: int
    batch_size: int
    num_here: int
    num_away: int
    borrows: bool = False
    lends: bool = False

    @classmethod
    def of(cls, view: InstanceView) -> _Desk:
        """Return an instance as it is shown."""
        return cls(view, view.num_free_blocks, view.batch_size, view.num_here_blocks, view.num_away_blocks)

    def tokens_per_s(self, *, sequences: int = 0, here: int = 0, away: int = 0) -> float:
        """Return the rate with so many sequences and blocks more, and at least so many away."""
        batch = self.batch_size + sequences
        return batch / self.view.times.step_s(batch, self.num_here + here, max(self.num_away, away)) if batch else 0.0


_Shares = list[tuple[_Desk, int]]


@final
class Greedy:
    """The smallest batch is asked first, a gain decides; stateless."""

    def __init__(self, config: GreedyConfig) -> None:
        self._config = config

    def __call__(self, instances: Sequence[InstanceView]) -> tuple[Loan, ...]:
        """See :class:`~steelyard.policies.lend.types.LendPolicy`."""
        desks = [_Desk.of(view) for view in sorted(instances, key=lambda view: view.id)]
        loans = list(_gather(desks))
        for borrower in sorted(desks, key=lambda desk: (desk.batch_size, desk.view.id)):
            if not borrower.lends:
                loans += self._borrow(borrower, desks)
        return tuple(loans)

    def _borrow(self, borrower: _Desk, desks: list[_Desk]) -> Iterator[Loan]:
        """Yield loans for the borrower's waiting sequences, in their order, until one is not worth it."""
        for waiting in borrower.view.waiting:
            if waiting.num_blocks > borrower.view.num_blocks:
                return
            lacking = _lacking(waiting, borrower)
            shares = self._shares(lacking, desks, borrower) if lacking else []
            if sum(count for _, count in shares) < lacking or (lacking and _gain(borrower, waiting, shares) <= 0):
                return
            yield from _make_loans(borrower, waiting, shares)
            _begin(borrower, waiting, shares)

    def _shares(self, lacking: int, desks: list[_Desk], borrower: _Desk) -> _Shares:
        """Return who would lend how much: those that lack nothing themselves, the freest first."""
        spare = [
            (desk, desk.num_free - int(self._config.reserve_share * desk.view.num_blocks))
            for desk in desks
            if desk is not borrower and not desk.borrows and not desk.view.waiting
        ]
        return _fill(lacking, spare)


def _gather(desks: list[_Desk]) -> Iterator[Loan]:
    """Yield loans for the oldest sequence too long for its instance, or the one that something was lent for already."""
    longest = [
        (not waiting.num_borrowed, waiting.id, desk, waiting)
        for desk in desks
        for waiting in desk.view.waiting
        if waiting.num_blocks > desk.view.num_blocks
    ]
    if not longest:
        return
    _, _, home, waiting = min(longest, key=lambda one: one[:2])
    shares = _fill(_lacking(waiting, home), [(desk, desk.num_free) for desk in desks if desk is not home])
    yield from _make_loans(home, waiting, shares)
    home.borrows, home.num_free = True, 0


def _lacking(waiting: WaitingView, home: _Desk) -> int:
    return max(0, waiting.num_blocks - waiting.num_borrowed - home.num_free)


def _fill(lacking: int, spare: list[tuple[_Desk, int]]) -> _Shares:
    """Return shares that add up to ``lacking``, or to all that is spare; from the freest first."""
    shares = []
    for desk, count in sorted(spare, key=lambda one: (-one[1], one[0].view.id)):
        if (share := min(lacking, count)) > 0:
            shares.append((desk, share))
            lacking -= share
    return shares


def _gain(borrower: _Desk, waiting: WaitingView, shares: _Shares) -> float:
    """Return by how many tokens per second the pool gets faster if the sequence runs with these shares."""
    away = max(count for _, count in shares)
    here = waiting.num_blocks - waiting.num_borrowed - sum(count for _, count in shares)
    gained = borrower.tokens_per_s(sequences=1, here=here, away=away) - borrower.tokens_per_s()
    return gained - sum(desk.tokens_per_s() - desk.tokens_per_s(here=count) for desk, count in shares)


def _make_loans(borrower: _Desk, waiting: WaitingView, shares: _Shares) -> Iterator[Loan]:
    for lender, count in shares:
        lender.lends, borrower.borrows = True, True
        lender.num_free -= count
        lender.num_here += count
        yield Loan(lender=lender.view.id, borrower=borrower.view.id, sequence_id=waiting.id, num_blocks=count)


def _begin(borrower: _Desk, waiting: WaitingView, shares: _Shares) -> None:
    """Let the sequence run in the books, so that the next one is weighed with it."""
    here = waiting.num_blocks - waiting.num_borrowed - sum(count for _, count in shares)
    borrower.num_free -= here
    borrower.num_here += here
    borrower.batch_size += 1
    borrower.num_away = max([borrower.num_away, *(count for _, count in shares)])


def make_greedy(*, reserve_share: float = DEFAULT_RESERVE_SHARE) -> LendPolicy:
    """Return a :class:`Greedy`; the options are :class:`GreedyConfig`'s."""
    return Greedy(GreedyConfig(reserve_share=reserve_share))
