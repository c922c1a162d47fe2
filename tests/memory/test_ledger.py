"""The debt ledger against a model in which every single block has an owner and a holder."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from steelyard.core.errors import InputError, MemoryBudgetError
from steelyard.core.kv import Loan
from steelyard.memory.ledger import DebtLedger, Departure

NAMES = ("a", "b", "c", "d")
names, counts, sequences = st.sampled_from(NAMES), st.integers(1, 6), st.integers(0, 2)


def loan(lender: str, borrower: str, sequence_id: int, num_blocks: int) -> Loan:
    return Loan(lender=lender, borrower=borrower, sequence_id=sequence_id, num_blocks=num_blocks)


class LedgerMachine(RuleBasedStateMachine):
    """Model: engine → an entry per block: ``None`` free, ``own``, or the (borrower, sequence) it holds tokens of."""

    @initialize(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4))
    def make(self, sizes):
        self.ledger, self.blocks = DebtLedger(), {}
        for name, size in zip(NAMES, sizes, strict=False):
            self.ledger.join(name, size)
            self.blocks[name] = [None] * size

    def fill(self, name, old, new, count):
        blocks = self.blocks[name]
        for index in [i for i, held in enumerate(blocks) if held == old][:count]:
            blocks[index] = new

    def held(self, name, what):
        return self.blocks.get(name, []).count(what)

    @rule(lender=names, borrower=names, sequence=sequences, count=counts)
    def lend(self, lender, borrower, sequence, count):
        asked = loan(lender, borrower, sequence, count)
        if lender == borrower or not {lender, borrower} <= self.blocks.keys():
            with pytest.raises(InputError):
                self.ledger.lend(asked)
        elif self.held(lender, None) < count:
            with pytest.raises(MemoryBudgetError):
                self.ledger.lend(asked)
        else:
            self.ledger.lend(asked)
            self.fill(lender, None, (borrower, sequence), count)

    @rule(lender=names, borrower=names, sequence=sequences, count=counts)
    def give_back(self, lender, borrower, sequence, count):
        returned = loan(lender, borrower, sequence, count)
        if self.held(lender, (borrower, sequence)) < count:
            with pytest.raises(InputError, match="Give back"):
                self.ledger.give_back(returned)
        else:
            self.ledger.give_back(returned)
            self.fill(lender, (borrower, sequence), None, count)

    @rule(borrower=names, sequence=sequences)
    def settle(self, borrower, sequence):
        closed = self.ledger.settle(borrower, sequence)
        owed = {name: self.held(name, (borrower, sequence)) for name in self.blocks}
        assert {one.lender: one.num_blocks for one in closed} == {name: n for name, n in owed.items() if n}
        for name, count in owed.items():
            self.fill(name, (borrower, sequence), None, count)

    @rule(name=names, count=st.integers(0, 12))
    def use(self, name, count):
        if name not in self.blocks:
            with pytest.raises(InputError, match="in the ledger"):
                self.ledger.use(name, count)
        elif count > self.held(name, None) + self.held(name, "own"):
            with pytest.raises(MemoryBudgetError):
                self.ledger.use(name, count)
        else:
            self.ledger.use(name, count)
            self.fill(name, "own", None, 12)
            self.fill(name, None, "own", count)

    @rule(name=names)
    def die(self, name):
        if name not in self.blocks:
            with pytest.raises(InputError, match="in the ledger"):
                self.ledger.leave(name)
            return
        departure = self.ledger.leave(name)
        hosted = {held for held in self.blocks.pop(name) if isinstance(held, tuple)}
        assert {(one.borrower, one.sequence_id) for one in departure.lost} == hosted
        assert departure.to_recompute == tuple(sorted({sequence for _, sequence in hosted}))
        for one in departure.returned:
            assert self.held(one.lender, (name, one.sequence_id)) == one.num_blocks
            self.fill(one.lender, (name, one.sequence_id), None, one.num_blocks)
        assert not any(isinstance(held, tuple) and held[0] == name for row in self.blocks.values() for held in row)

    @rule(name=names, size=st.integers(1, 12))
    def join(self, name, size):
        if name in self.blocks:
            with pytest.raises(InputError, match="already"):
                self.ledger.join(name, size)
        else:
            self.ledger.join(name, size)
            self.blocks[name] = [None] * size

    @invariant()
    def books_agree(self):
        self.ledger.check_invariants()
        assert set(self.ledger.members) == self.blocks.keys()
        for name, blocks in self.blocks.items():
            assert self.ledger.num_free(name) == blocks.count(None)
            assert self.ledger.num_lent(name) == sum(isinstance(held, tuple) for held in blocks)
        entered = {(one.lender, one.borrower, one.sequence_id): one.num_blocks for one in self.ledger.loans()}
        held = [(name, *one) for name, row in self.blocks.items() for one in row if isinstance(one, tuple)]
        assert entered == {key: held.count(key) for key in held}


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def three() -> DebtLedger:
    ledger = DebtLedger()
    for name in ("a", "b", "c"):
        ledger.join(name, 10)
    return ledger


def test_a_death_by_hand():
    """b lent to a and borrowed from c: a computes sequence 1 again, c has its blocks back."""
    ledger = three()
    ledger.lend(loan("b", "a", 1, 4))
    ledger.lend(loan("c", "a", 1, 2))
    ledger.lend(loan("c", "b", 7, 5))
    departure = ledger.leave("b")
    assert departure == Departure(lost=(loan("b", "a", 1, 4),), returned=(loan("c", "b", 7, 5),))
    assert departure.to_recompute == (1,)
    assert (ledger.num_free("c"), ledger.loans()) == (8, (loan("c", "a", 1, 2),))
    assert ledger.settle("a", 1) == (loan("c", "a", 1, 2),)
    ledger.join("b", 3)
    assert [ledger.num_free(name) for name in ledger.members] == [10, 10, 3]


def test_loans_add_up_and_are_found_by_either_side():
    ledger = three()
    ledger.lend(loan("b", "a", 1, 4))
    ledger.lend(loan("b", "a", 1, 2))
    ledger.lend(loan("b", "c", 2, 1))
    assert ledger.loans(lender="b") == (loan("b", "a", 1, 6), loan("b", "c", 2, 1))
    assert ledger.loans(borrower="c") == (loan("b", "c", 2, 1),)
    assert ledger.loans(lender="a") == ()


def test_errors_name_the_field_and_the_remedy():
    ledger = three()
    ledger.use("b", 8)
    with pytest.raises(MemoryBudgetError, match="3 KV blocks are wanted, 2 of b are free"):
        ledger.lend(loan("b", "a", 1, 3))
    with pytest.raises(InputError, match="There are: a, b, c"):
        ledger.lend(loan("b", "z", 1, 1))
    with pytest.raises(InputError, match="at least 1"):
        ledger.lend(loan("b", "a", 1, 0))
    with pytest.raises(InputError, match="negative"):
        ledger.use("b", -1)
    ledger.lend(loan("b", "a", 1, 2))
    with pytest.raises(MemoryBudgetError, match="Wait until loans are given back"):
        ledger.use("b", 9)
    ledger.check_invariants()


def test_the_check_finds_a_block_that_is_promised_twice():
    ledger = three()
    ledger.lend(loan("b", "a", 1, 4))
    ledger._accounts["b"].num_used = 7
    with pytest.raises(AssertionError, match="promised blocks twice"):
        ledger.check_invariants()
