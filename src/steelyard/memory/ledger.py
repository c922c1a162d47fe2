"""Who borrowed how many KV blocks from whom: :class:`DebtLedger`, the books of a pool of engines (S34, Infinite-LLM).

One place (the paper's gManager) keeps the ledger; each engine (rManager) says how many blocks it uses itself, and hands
out the block numbers of what it lends. The ledger only counts, so that no block is promised twice. It outlives engines:
when one leaves, what it lent is gone, and the sequences that had tokens there must be computed again; what it had
borrowed is free again with its lenders.

Plain Python without a clock or tensors, so a process that knows engines over a wire can use it as it is. Left out:
moving a loan from one lender to another, calling one in before its sequence ends, and the ledger's own death (an heir
can ask every engine for its loans and enter them anew).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steelyard.core.errors import InputError, MemoryBudgetError
from steelyard.core.kv import Loan


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What an engine's leaving means for the others.

    Attributes:
        lost: loans that it had given: their tokens are gone, their sequences must be computed again.
        returned: loans that it had taken: their blocks are free with their lenders.
    """

    lost: tuple[Loan, ...]
    returned: tuple[Loan, ...]

    @property
    def to_recompute(self) -> tuple[int, ...]:
        """Ids of the sequences that lost tokens, each once, rising."""
        return tuple(sorted({loan.sequence_id for loan in self.lost}))


@dataclass(slots=True)
class _Account:
    num_blocks: int
    num_used: int = 0
    num_lent: int = 0


_Key = tuple[str, str, int]  # lender, borrower, sequence


class DebtLedger:
    """The loans among engines that are known by name.

    Wrong names and impossible numbers raise and change nothing: they may come from another process.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._loans: dict[_Key, int] = {}

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all engines, in the order in which they joined."""
        return tuple(self._accounts)

    def loans(self, *, lender: str | None = None, borrower: str | None = None) -> tuple[Loan, ...]:
        """Return the loans given by ``lender`` and taken by ``borrower``, each of them or anybody, oldest first."""
        return tuple(
            _loan(key, count)
            for key, count in self._loans.items()
            if lender in (None, key[0]) and borrower in (None, key[1])
        )

    def num_free(self, name: str) -> int:
        """Return how many of an engine's blocks are neither used by itself nor lent."""
        account = self._account(name)
        return account.num_blocks - account.num_used - account.num_lent

    def num_lent(self, name: str) -> int:
        """Return how many of an engine's blocks hold others' tokens."""
        return self._account(name).num_lent

    def join(self, name: str, num_blocks: int) -> None:
        """Add an engine with so many blocks, none of them used.

        Raises:
            InputError: if it is there already, or has no blocks.
        """
        if name in self._accounts:
            remedy = "Let it leave first, or give another name"
            raise InputError(f"{name!r} is in the ledger already", field="instance", remedy=remedy)
        _check_count("num_blocks", num_blocks)
        self._accounts[name] = _Account(num_blocks)

    def use(self, name: str, num_blocks: int) -> None:
        """Note how many blocks an engine uses for its own sequences from now on.

        Raises:
            MemoryBudgetError: if they are more than it has besides what it lent.
            InputError: if the number is negative, or the engine not known.
        """
        account = self._account(name)
        if num_blocks < 0:
            raise InputError(f"{num_blocks} is negative", field="num_blocks", remedy="Give 0 or more")
        if num_blocks > account.num_blocks - account.num_lent:
            problem = (
                f"{name} has {account.num_blocks} KV blocks and lent {account.num_lent}; it cannot use {num_blocks}"
            )
            raise MemoryBudgetError(problem, field="num_blocks", remedy="Wait until loans are given back")
        account.num_used = num_blocks

    def lend(self, loan: Loan) -> None:
        """Enter a loan, on top of what the lender lent for the sequence before.

        Raises:
            MemoryBudgetError: if the lender has fewer free blocks.
            InputError: if an engine is not known, lends to itself, or the number is below 1.
        """
        _check_count("num_blocks", loan.num_blocks)
        lender, _ = self._account(loan.lender), self._account(loan.borrower)
        if loan.lender == loan.borrower:
            raise InputError(f"{loan.lender} lends to itself", field="lender", remedy="Use its own blocks")
        if loan.num_blocks > self.num_free(loan.lender):
            problem = f"{loan.num_blocks} KV blocks are wanted, {self.num_free(loan.lender)} of {loan.lender} are free"
            raise MemoryBudgetError(problem, field="num_blocks", remedy="Ask for fewer, or another lender")
        lender.num_lent += loan.num_blocks
        self._loans[_key(loan)] = self._loans.get(_key(loan), 0) + loan.num_blocks

    def give_back(self, loan: Loan) -> None:
        """Take so many blocks off a loan; they are free with the lender.

        Raises:
            InputError: if fewer are owed, or the number is below 1.
        """
        _check_count("num_blocks", loan.num_blocks)
        owed = self._loans.get(_key(loan), 0)
        if loan.num_blocks > owed:
            problem = f"{loan.borrower} owes {loan.lender} {owed} blocks for sequence {loan.sequence_id}"
            raise InputError(problem, field="num_blocks", remedy=f"Give back {owed} at most")
        self._take_off(_key(loan), loan.num_blocks)

    def settle(self, borrower: str, sequence_id: int) -> tuple[Loan, ...]:
        """Give back all that a sequence borrowed, because it ended or begins anew; return the loans that there were."""
        return self._close(key for key in self._loans if key[1:] == (borrower, sequence_id))

    def leave(self, name: str) -> Departure:
        """Strike an engine off, whether it died or went; what a lender that is left had lent is free again there.

        A sequence that lost tokens keeps its other loans until :meth:`settle`.

        Raises:
            InputError: if it is not known.
        """
        self._account(name)
        returned = self._close(key for key in self._loans if key[1] == name)
        lost = self._close(key for key in self._loans if key[0] == name)
        del self._accounts[name]
        return Departure(lost=lost, returned=returned)

    def check_invariants(self) -> None:
        """Check that no block is promised twice, and that all loans are among members.

        Raises:
            AssertionError: if a lender's sum is wrong or exceeds its blocks, or a loan is empty or one's own.
        """
        lent = dict.fromkeys(self._accounts, 0)
        for (lender, borrower, sequence_id), count in self._loans.items():
            assert {lender, borrower} <= self._accounts.keys(), f"{lender} or {borrower} left, but its loan stays"
            assert lender != borrower, f"{lender} lends to itself for sequence {sequence_id}"
            assert count > 0, f"{lender} lent {count} blocks to {borrower}"
            lent[lender] += count
        for name, account in self._accounts.items():
            assert account.num_lent == lent[name], f"{name} counts {account.num_lent} lent, its loans say {lent[name]}"
            assert account.num_used >= 0, f"{name} uses {account.num_used} blocks"
            assert self.num_free(name) >= 0, f"{name} promised blocks twice: {account}"

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            known = ", ".join(self._accounts) or "none"
            raise InputError(f"no {name!r} is in the ledger", field="instance", remedy=f"There are: {known}")
        return account

    def _close(self, keys: Iterable[_Key]) -> tuple[Loan, ...]:
        closed = tuple(_loan(key, self._loans[key]) for key in tuple(keys))
        for loan in closed:
            self._take_off(_key(loan), loan.num_blocks)
        return closed

    def _take_off(self, key: _Key, num_blocks: int) -> None:
        self._loans[key] -= num_blocks
        if not self._loans[key]:
            del self._loans[key]
        self._accounts[key[0]].num_lent -= num_blocks


def _key(loan: Loan) -> _Key:
    return (loan.lender, loan.borrower, loan.sequence_id)


def _loan(key: _Key, num_blocks: int) -> Loan:
    return Loan(lender=key[0], borrower=key[1], sequence_id=key[2], num_blocks=num_blocks)


def _check_count(field: str, number: int) -> None:
    if number < 1:
        raise InputError(f"{number} is not a positive number", field=field, remedy="Give at least 1")
