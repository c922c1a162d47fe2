"""A small engine without a model: real policies and KV bookkeeping, made-up tokens, a check after every decision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from steelyard.core.kv import CachedPrefix
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.memory.kv_manager import KVCacheConfig, KVManager
from steelyard.policies.schedule.types import Schedule, ScheduleLimits, SchedulePolicy

PARAMS = SamplingParams()


@dataclass(frozen=True)
class Job:
    """A sequence to come: when, what it asks, how much it will answer."""

    arrival_step: int
    prompt: tuple[int, ...]
    num_output: int
    priority: int = 0
    salt: str = ""
    tenant: str = ""

    @property
    def num_tokens(self) -> int:
        """KV positions it needs at the end: its last token is never computed."""
        return len(self.prompt) + self.num_output - 1


@dataclass(frozen=True)
class FakeView:
    """A :class:`SchedulerView` over copies, so that a policy could only spoil its own view."""

    now_s: float
    limits: ScheduleLimits
    running: list[Sequence]
    waiting: list[Sequence]
    kv: KVManager

    @property
    def num_free_blocks(self) -> int:
        return self.kv.num_free_blocks

    def num_held_blocks(self, sequence_id: int) -> int:
        assert sequence_id in {sequence.id for sequence in self.running}
        return self.kv.num_held_blocks(sequence_id)

    def num_releasable_blocks(self, *sequence_ids: int) -> int:
        assert set(sequence_ids) <= {sequence.id for sequence in self.running}
        return self.kv.num_releasable_blocks(*sequence_ids)

    def cached_prefix(self, sequence_id: int) -> CachedPrefix:
        (sequence,) = (sequence for sequence in self.waiting if sequence.id == sequence_id)
        return self.kv.peek_prefix(sequence)


@dataclass
class Totals:
    """What happened in a run."""

    num_steps: int = 0
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    finished: list[int] = field(default_factory=list)
    finish_step: dict[int, int] = field(default_factory=dict)


Check = Callable[[FakeView, Schedule], None]


class FakeEngine:
    """Runs jobs to their end, a step at a time; job i becomes sequence i.

    Args:
        jobs: in order of arrival.
        policy: decides.
        limits: what a step may hold.
        num_blocks: size of the KV cache.
        step_s: how long a step takes.
        check: called with every view and the decision about it, before it is carried out.
    """

    def __init__(
        self,
        jobs: list[Job],
        policy: SchedulePolicy,
        limits: ScheduleLimits,
        num_blocks: int,
        *,
        caching: bool = True,
        step_s: float = 0.1,
        check: Check = lambda view, schedule: None,
    ) -> None:
        self.jobs, self.policy, self.limits, self.step_s, self.check = jobs, policy, limits, step_s, check
        self.kv = KVManager(
            KVCacheConfig(num_blocks=num_blocks, block_size=limits.block_size, enable_prefix_caching=caching)
        )
        self.sequences: dict[int, Sequence] = {}
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.totals = Totals()
        self.now_s = 0.0

    @property
    def is_done(self) -> bool:
        return len(self.totals.finished) == len(self.jobs)

    def run(self, max_steps: int) -> Totals:
        """Step until all jobs are finished; more steps than ``max_steps`` fail."""
        while not self.is_done:
            assert self.totals.num_steps < max_steps, f"not done after {max_steps} steps: livelock or starvation"
            self.step()
        return self.totals

    def view(self) -> FakeView:
        """Return the state as policies see it."""
        running, waiting = copy.deepcopy(self.running), copy.deepcopy(self.waiting)
        return FakeView(self.now_s, self.limits, running, waiting, self.kv)

    def step(self) -> None:
        """Receive, schedule, check, carry out, commit."""
        self._receive()
        if self.running or self.waiting:
            view = self.view()
            schedule = self.policy(view)
            self.check(view, schedule)
            assert schedule.grants or schedule.preempt, "nothing is granted although sequences wait"
            self._carry_out(schedule)
            self.kv.check_invariants([sequence.id for sequence in self.running])
        self.totals.num_steps += 1
        self.now_s += self.step_s

    def _receive(self) -> None:
        while len(self.sequences) < len(self.jobs):
            job = self.jobs[len(self.sequences)]
            if job.arrival_step > self.totals.num_steps:
                return
            sequence = Sequence(
                id=len(self.sequences),
                request_id=str(len(self.sequences)),
                index=0,
                prompt=job.prompt,
                params=PARAMS,
                seed=0,
                arrival_s=self.now_s,
                priority=job.priority,
                cache_salt=job.salt,
                tenant=job.tenant,
            )
            self.sequences[sequence.id] = sequence
            self.waiting.append(sequence)

    def _carry_out(self, schedule: Schedule) -> None:
        for sequence_id in schedule.preempt:
            sequence = self.sequences[sequence_id]
            self.kv.release(sequence)
            sequence.num_computed_tokens = 0
            self.running.remove(sequence)
            self.waiting.insert(0, sequence)
            self.totals.num_preemptions += 1
        for grant in schedule.grants:
            sequence = self.sequences[grant.sequence_id]
            if sequence in self.waiting:
                sequence.num_computed_tokens = self.kv.admit(sequence)
                self.waiting.remove(sequence)
                self.running.append(sequence)
            num_tokens = min(grant.num_tokens, sequence.num_new_tokens)
            self.kv.grow(sequence, sequence.num_computed_tokens + num_tokens)
            sequence.num_computed_tokens += num_tokens
            self.totals.num_computed_tokens += num_tokens
            assert len(self.kv.block_table(sequence.id)) == ceil_div(
                sequence.num_computed_tokens, self.limits.block_size
            )
        for grant in schedule.grants:
            self._commit(self.sequences[grant.sequence_id])

    def _commit(self, sequence: Sequence) -> None:
        if sequence.num_new_tokens > 0:
            return
        sequence.tokens.append((sequence.id + sequence.num_tokens) % 3)
        if sequence.num_output_tokens == self.jobs[sequence.id].num_output:
            self.running.remove(sequence)
            self.kv.release(sequence)
            self.kv.forget(sequence.id)
            self.totals.finished.append(sequence.id)
            self.totals.finish_step[sequence.id] = self.totals.num_steps


def shuffled(view: FakeView, order: Callable[[list[Sequence]], list[Sequence]]) -> FakeView:
    """Return the view with its sequences listed in another order."""
    return replace(view, running=order(view.running), waiting=order(view.waiting))
