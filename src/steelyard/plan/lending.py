"""A pool of engines that lend each other KV blocks, at work on a pile of requests (S34, Infinite-LLM).

Ledger and policy are the ones that engines would use (:mod:`steelyard.memory.ledger`, :mod:`steelyard.policies.lend`);
steps take what :class:`~steelyard.cost.lending.InstanceSteps` says. The full simulator knows no sequence that lives on
several engines, so this has its own event heap. All requests are there at the beginning and wait, in their order, at
the instance that was given the fewest tokens. A request gets all its blocks before it begins. Its prompt is computed
whole: by its own instance, but for attention, which each holder of keys does for its part. Decoding steps are taken
several at a time, each as long as the one in their middle. With policy ``none`` the instances are static ones.

Left out: what a guest's prompt costs its lenders' own steps, prefix caches, preemption, moving the tokens of running
sequences, and the death of an engine (the ledger's tests have it).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import NamedTuple, final

from steelyard.core.errors import InputError
from steelyard.core.units import ceil_div
from steelyard.cost.lending import InstanceSteps
from steelyard.memory.ledger import DebtLedger
from steelyard.policies.lend import make_lend_policy
from steelyard.policies.lend.types import InstanceView, StepTimes, WaitingView

BLOCK_SIZE = 16
_MAX_BATCH = 256
_CHUNK = 32  # decoding steps taken at once
_SHOWN = 8  # waiting sequences of an instance that a policy sees


class Demand(NamedTuple):
    """A request's tokens: of its prompt, and of its answer, at least 1 each."""

    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def num_blocks(self) -> int:
        """KV blocks that it needs in all."""
        return ceil_div(self.num_prompt_tokens + self.num_output_tokens, BLOCK_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Like engines.

    Attributes:
        steps: of each.
        count: how many.
        num_blocks: KV blocks of each.
        policy: of lending, by its name.
        manage_every_s: between two decisions about loans.
        computes_prompts: whether prompts are computed here; otherwise their keys and values come from elsewhere, in no
            time.
    """

    steps: InstanceSteps
    count: int
    num_blocks: int
    policy: str = "none"
    manage_every_s: float = 0.5
    computes_prompts: bool = True

    @property
    def longest_blocks(self) -> int:
        """KV blocks of the longest request that can be served."""
        return self.num_blocks if self.policy == "none" else self.count * self.num_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutcome:
    """What a pool made of a pile of requests.

    Attributes:
        num_done: requests answered.
        num_refused: requests that are too long for it.
        num_tokens: of the answers.
        seconds: until the last answer.
        num_loans: loans that were made.
    """

    num_done: int
    num_refused: int
    num_tokens: int
    seconds: float
    num_loans: int

    @property
    def tokens_per_s(self) -> float:
        """Of the answers."""
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


def serve_pile(config: PoolConfig, demands: Sequence[Demand]) -> PoolOutcome:
    """Return what becomes of requests that are all there at the beginning.

    Raises:
        ParamsError: if there is no such policy.
        InputError: if one is left that can never begin.
    """
    return _Pool(config, demands).run()


@dataclass(slots=True, eq=False)
class _Sequence:
    id: int
    demand: Demand
    num_left: int
    context: float = 0.0  # tokens that have keys
    away: dict[str, int] = field(default_factory=dict)  # lender → blocks

    def share(self, num_blocks: int) -> float:
        """Return the tokens that have keys in so many of its blocks."""
        return self.context * num_blocks / self.demand.num_blocks


@dataclass(slots=True, eq=False)
class _Instance:
    name: str
    waiting: deque[_Sequence] = field(default_factory=deque)
    begun: deque[_Sequence] = field(default_factory=deque)  # whose prompts are still to be computed
    running: list[_Sequence] = field(default_factory=list)
    num_used: int = 0
    is_busy: bool = False

    @property
    def batch_size(self) -> int:
        return len(self.begun) + len(self.running)

    def num_away(self) -> int:
        """Return the blocks with the lender that has most of its sequences' blocks."""
        away: dict[str, int] = {}
        for sequence in (*self.begun, *self.running):
            for lender, blocks in sequence.away.items():
                away[lender] = away.get(lender, 0) + blocks
        return max(away.values(), default=0)


@final
class _Pool:
    def __init__(self, config: PoolConfig, demands: Sequence[Demand]) -> None:
        self._config, self._steps = config, config.steps
        self._policy, self._ledger = make_lend_policy(config.policy), DebtLedger()
        self._instances = [_Instance(f"{number:03}") for number in range(config.count)]
        for one in self._instances:
            self._ledger.join(one.name, config.num_blocks)
        self._now_s, self._num_loans = 0.0, 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._dense_s = cache(lambda rows: self._steps.dense_s(rows, rows))
        self._times = _step_times(self._steps)
        self._refused = [one for one in demands if one.num_blocks > config.longest_blocks]
        self._done: list[Demand] = []
        self._hand_out([one for one in demands if one.num_blocks <= config.longest_blocks])

    def run(self) -> PoolOutcome:
        """Work until nothing is left."""
        self._manage()
        while self._events:
            self._now_s, _, happen = heapq.heappop(self._events)
            happen()
        left = sum(len(one.waiting) + one.batch_size for one in self._instances)
        if left:
            problem = f"{left} requests wait for memory that nobody lends"
            raise InputError(problem, field="policy", remedy="Use a policy that gathers memory for long requests")
        self._ledger.check_invariants()
        assert not self._ledger.loans(), "a loan outlives its sequence"
        return PoolOutcome(
            num_done=len(self._done),
            num_refused=len(self._refused),
            num_tokens=sum(one.num_output_tokens for one in self._done),
            seconds=self._now_s,
            num_loans=self._num_loans,
        )

    def _hand_out(self, demands: Sequence[Demand]) -> None:
        """Give each request to the instance with the fewest tokens."""
        loads = [(0, number) for number in range(len(self._instances))]
        for sequence_id, demand in enumerate(demands):
            load, number = heapq.heappop(loads)
            self._instances[number].waiting.append(_Sequence(sequence_id, demand, demand.num_output_tokens))
            heapq.heappush(loads, (load + sum(demand), number))

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), happen))

    # -- memory -----------------------------------------------------------------------------------------------------

    def _manage(self) -> None:
        """Ask the policy, enter its loans, and let begin who can; again after a while, as long as somebody waits."""
        for loan in self._policy([self._view(one) for one in self._instances]):
            self._ledger.lend(loan)
            self._num_loans += 1
        for one in self._instances:
            self._admit(one)
        if any(one.waiting for one in self._instances) and any(one.is_busy for one in self._instances):
            self._after(self._config.manage_every_s, self._manage)

    def _view(self, one: _Instance) -> InstanceView:
        lent: dict[int, int] = {}
        for loan in self._ledger.loans(borrower=one.name):
            lent[loan.sequence_id] = lent.get(loan.sequence_id, 0) + loan.num_blocks
        first = list(one.waiting)[:_SHOWN]
        return InstanceView(
            id=one.name,
            num_blocks=self._config.num_blocks,
            num_free_blocks=self._ledger.num_free(one.name),
            times=self._times,
            batch_size=one.batch_size,
            num_here_blocks=one.num_used + self._ledger.num_lent(one.name),
            num_away_blocks=one.num_away(),
            waiting=tuple(
                WaitingView(id=each.id, num_blocks=each.demand.num_blocks, num_borrowed=lent.get(each.id, 0))
                for each in first
            ),
        )

    def _admit(self, one: _Instance) -> None:
        """Let waiting sequences begin, in their order, while there is memory."""
        while one.waiting and one.batch_size < _MAX_BATCH:
            sequence = one.waiting[0]
            away = {
                loan.lender: loan.num_blocks
                for loan in self._ledger.loans(borrower=one.name)
                if loan.sequence_id == sequence.id
            }
            own = sequence.demand.num_blocks - sum(away.values())
            if own > self._ledger.num_free(one.name):
                break
            one.waiting.popleft()
            sequence.away = away
            one.num_used += own
            self._ledger.use(one.name, one.num_used)
            one.begun.append(sequence)
        self._go_on(one)

    def _finish(self, one: _Instance, sequence: _Sequence) -> None:
        one.num_used -= sequence.demand.num_blocks - sum(sequence.away.values())
        self._ledger.use(one.name, one.num_used)
        self._ledger.settle(one.name, sequence.id)
        self._done.append(sequence.demand)
        if sequence.away:
            for lender in self._instances:
                if lender.name in sequence.away:
                    self._admit(lender)

    # -- time -------------------------------------------------------------------------------------------------------

    def _go_on(self, one: _Instance) -> None:
        """Begin the next prompt or the next decoding steps, unless something is under way."""
        if one.is_busy or not one.batch_size:
            return
        one.is_busy = True
        if one.begun:
            sequence = one.begun.popleft()
            self._after(self._prompt_s(sequence), lambda: self._end_steps(one, [sequence], 1, sequence))
            return
        num_steps = min(_CHUNK, *(each.num_left for each in one.running))
        decoded = list(one.running)
        self._after(num_steps * self._decode_s(one, num_steps), lambda: self._end_steps(one, decoded, num_steps, None))

    def _end_steps(
        self, one: _Instance, sequences: Sequence[_Sequence], num_steps: int, prompt: _Sequence | None
    ) -> None:
        one.is_busy = False
        if prompt is not None:
            prompt.context = prompt.demand.num_prompt_tokens
            one.running.append(prompt)
        for sequence in sequences:
            sequence.num_left -= num_steps
            sequence.context += num_steps
            if sequence.num_left == 0:
                one.running.remove(sequence)
                self._finish(one, sequence)
        self._admit(one)

    def _prompt_s(self, sequence: _Sequence) -> float:
        if not self._config.computes_prompts:
            return 0.0
        size, num_blocks, away = sequence.demand.num_prompt_tokens, sequence.demand.num_blocks, sequence.away
        num_away = sum(away.values())
        most = max(num_blocks - num_away, *away.values(), 0) / num_blocks
        attention_s = self._steps.attention_s(most * size * size / 2, most * size)
        num_written = size * num_away // num_blocks
        return self._steps.dense_s(size, 1) + attention_s + self._steps.exchange_s(size, len(away), num_written)

    def _decode_s(self, one: _Instance, num_steps: int) -> float:
        """Return what a step of the middle of a few takes; lenders attend to their part at the same time."""
        here = float(self._ledger.num_lent(one.name) * BLOCK_SIZE)
        away: dict[str, float] = {}
        for sequence in one.running:
            here += sequence.context + num_steps / 2
            for lender, blocks in sequence.away.items():
                there = sequence.share(blocks)
                here -= there
                away[lender] = away.get(lender, 0.0) + there
        most = max(away.values(), default=0.0)
        asking = sum(1 for sequence in one.running if sequence.away)
        elsewhere_s = self._steps.attention_s(most, most) + self._steps.exchange_s(asking, len(away), asking)
        return self._dense_s(len(one.running)) + max(self._steps.attention_s(here, here), elsewhere_s if away else 0.0)


def _step_times(steps: InstanceSteps) -> StepTimes:
    """Return an instance's steps in the few numbers that policies know."""
    return StepTimes(
        weights_s=steps.dense_s(1, 1),
        sequence_s=steps.dense_s(_MAX_BATCH, _MAX_BATCH) / _MAX_BATCH,
        block_s=steps.attention_s(BLOCK_SIZE, BLOCK_SIZE),
        exchange_s=steps.exchange_s(1, 1),
    )
