"""The engine: receive → schedule → execute → commit, once per step, until closed.

Continuous batching at every iteration (S74 Flover calls it temporal fusion): whatever runs, at whatever point of its
life, is computed together in one step, and whoever finishes leaves at once. The engine owns every decision's
consequence; the decisions are a policy's, the computing an executor's, the KV bookkeeping the manager's, and the time
the running event loop's. On a virtual loop with a modelled executor this same code is the simulator.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from random import Random

from steelyard.core.batch import Batch, SequenceWork, StepOutput
from steelyard.core.clock import now_s
from steelyard.core.errors import EngineBusyError, EngineStoppedError, ParamsError, SteelyardError
from steelyard.core.request import FinishReason, Request
from steelyard.core.sequence import Sequence, SequenceStatus
from steelyard.core.units import ceil_div
from steelyard.engine.admission import check_request
from steelyard.engine.coasting import MIN_STEPS, Coaster, steady_steps
from steelyard.engine.completion import CompletionState, TextFactory
from steelyard.engine.config import EngineConfig
from steelyard.engine.constraints import GrammarStore, check_constraint
from steelyard.engine.executor import Executor
from steelyard.engine.promises import Promises
from steelyard.engine.response import Response
from steelyard.engine.sequence_table import SequenceTable
from steelyard.engine.view import EngineView, LiveSequence, Observer, StepRecord
from steelyard.memory.kv_manager import KVCacheConfig, KVManager, KVUsage
from steelyard.policies.admit.types import EngineLoad
from steelyard.policies.schedule.types import Grant, Schedule, ScheduleLimits, SchedulePolicy

_SEED_BITS = 63
# A device that has failed so many steps in a row will not compute the next one either.
MAX_FAILED_STEPS = 5

EngineResponse = Response[CompletionState]
"""What an engine's caller holds."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step that executes while the next one is scheduled."""

    start_s: float
    schedule: Schedule
    batch: Batch
    execution: asyncio.Task[StepOutput]


class Engine:
    """Requests in, tokens out.

    Must be made and used inside a running event loop; its time is that loop's time.

    Args:
        config: limits and sizes.
        executor: computes steps.
        policy: decides what each step computes.
        text: makes the text side of completions; ``None`` for token ids only.
        eos_token_ids: tokens that end a completion.
        vocab_size: for checking token ids in requests.
        observers: called after each step.
        grammars: compiled constraints, the same that ``executor`` follows; ``None`` refuses requests with any.
        coaster: takes runs of equal decode steps by itself (:mod:`steelyard.engine.coasting`), the same machine as
            ``executor``; needs a steady policy and no overlapped steps.
    """

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        policy: SchedulePolicy,
        *,
        vocab_size: int,
        eos_token_ids: frozenset[int] = frozenset(),
        text: TextFactory | None = None,
        observers: tuple[Observer, ...] = (),
        grammars: GrammarStore | None = None,
        coaster: Coaster | None = None,
    ) -> None:
        self.config, self._executor, self._policy = config, executor, policy
        self._vocab_size, self._eos, self._text, self._observers = vocab_size, eos_token_ids, text, list(observers)
        self._grammars, self._coaster = grammars, coaster
        self._kv = KVManager(
            KVCacheConfig(
                num_blocks=config.num_kv_blocks,
                block_size=config.block_size,
                enable_prefix_caching=config.enable_prefix_caching,
            )
        )
        self._table = SequenceTable()
        self._view = EngineView(
            self._table,
            self._kv,
            ScheduleLimits(
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                block_size=config.block_size,
            ),
        )
        self._responses: dict[str, EngineResponse] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._promises = Promises()
        self._completions: dict[int, tuple[EngineResponse, CompletionState]] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._room = asyncio.Event()
        self._rng, self._ids = Random(config.seed), count()
        self._num_steps, self._num_in_inbox, self._num_failed_in_a_row = 0, 0, 0
        self._flight: _Flight | None = None
        self._coasting: Schedule | None = None
        self._under_way: Batch | None = None  # of a coast that somebody looked at
        self._closed = self._released = False

    # -- the front door -------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> EngineResponse:
        """Queue a request and return its growing response.

        A constraint that nobody has prepared (:meth:`.constraints.GrammarStore.prepare`) is compiled here and now.

        Raises:
            EngineBusyError: if too many sequences wait already.
            EngineStoppedError: if the engine was closed.
            InputError: if the request cannot be served (see :mod:`steelyard.engine.admission`).
        """
        if self._closed:
            raise EngineStoppedError("it was closed", field="engine", remedy="Make a new one")
        check_request(request, self.config, self._vocab_size, has_text=self._text is not None)
        if not self.has_room:
            raise EngineBusyError(
                f"{self.num_waiting} sequences are waiting already",
                field="max_waiting",
                remedy="Try again later, or raise max_waiting",
            )
        if request.id in self._responses:
            raise ParamsError(f"{request.id!r} is in use", field="request_id", remedy="Choose a unique id")
        check_constraint(request.params, self._grammars)
        sequences = [self._sequence(request, index) for index in range(request.params.n)]
        completions = tuple(self._completion(request, sequence) for sequence in sequences)
        response = Response(request, completions, now_s())
        self._responses[request.id] = response
        self._num_in_inbox += len(sequences)
        for sequence in sequences:
            self._promises.make(sequence.id, self._longest_blocks(sequence))
        self._post(lambda: self._admit(response, sequences))
        if request.deadline_s is not None:
            self._watch_deadline(response, request.deadline_s)
        return response

    def cancel(self, request_id: str, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End a request at the next step boundary; its blocks are free from then on. Unknown ids are ignored."""
        response = self._responses.get(request_id)
        if response is not None:
            self._post(lambda: self._end(response, reason))

    @property
    def policy(self) -> SchedulePolicy:
        """What decides each step; one that can be reconfigured may be, between steps."""
        return self._policy

    def add_observer(self, observer: Observer) -> None:
        """Call ``observer`` after each step from now on."""
        self._observers.append(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Call ``observer`` no more; it must have been added."""
        self._observers.remove(observer)

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests: it was closed, or died of an error of its own."""
        return self._closed

    @property
    def num_waiting(self) -> int:
        """Sequences that wait, those still in the inbox included."""
        return self._num_in_inbox + len(self._table.waiting)

    def load(self) -> EngineLoad:
        """Return how busy the engine is, for admission policies; what is in the inbox counts as waiting."""
        num_held = sum(self._kv.num_held_blocks(sequence.id) for sequence in self._table.running)
        return EngineLoad(
            num_running=len(self._table.running),
            num_waiting=self.num_waiting,
            num_free_blocks=self._kv.num_free_blocks,
            num_promised_blocks=self._promises.num_blocks - num_held,
            block_size=self.config.block_size,
        )

    def waiting_tenants(self) -> Counter[str]:
        """Return how many sequences of each tenant wait, those in the inbox left out."""
        return Counter(sequence.tenant for sequence in self._table.waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold a seat."""
        return len(self._table.running)

    @property
    def kv_usage(self) -> KVUsage:
        """How the KV cache is used now."""
        return self._kv.usage()

    @property
    def kv_block_states(self) -> bytes:
        """What each KV block is used for now; see :meth:`~steelyard.memory.kv_manager.KVManager.block_states`."""
        return self._kv.block_states()

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        """Return the running sequences and then the waiting ones, those in the inbox left out."""
        return tuple(self._live(sequence) for sequence in self._table.running + self._table.waiting)

    @property
    def has_room(self) -> bool:
        """Whether :meth:`submit` would take another request now."""
        return self.num_waiting < self.config.max_waiting

    async def wait_for_room(self) -> None:
        """Return once :attr:`has_room`: back-pressure for feeders."""
        while not self.has_room and not self._closed:
            self._room.clear()
            await self._room.wait()

    # -- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Step until :meth:`close`; sleep while there is nothing to do.

        What a step itself raises ends every request and the engine: a policy's or our own bug, or an executor that has
        failed :data:`MAX_FAILED_STEPS` times in a row.
        """
        step = self.overlapped_step if self.config.overlap_steps else self.step
        try:
            while not self._closed:
                if not self._inbox and not len(self._table) and self._flight is None:
                    self._wake.clear()
                    await self._wake.wait()
                await step()
        except Exception as error:
            self._closed = True
            self._end_all(error if isinstance(error, SteelyardError) else _step_failed("scheduler", error))
            raise

    async def step(self) -> None:
        """Receive, schedule, execute, commit; and coast, if a coaster is there and nothing is to be decided."""
        async with self._stepping:
            start_s = now_s()
            self._receive()
            if not len(self._table):
                return
            schedule, batch = self._schedule()
            try:
                output = await self._executor.execute(batch) if batch.works else StepOutput({})
            except Exception as error:
                self._fail(batch, error)
                output = StepOutput({})
            else:
                self._advance(batch)
                self._commit(batch, output, now_s())
            self._observe(start_s, now_s(), schedule, batch, output)
            if self._coaster is not None:
                await self._coast(self._coaster, batch)

    async def _coast(self, coaster: Coaster, last: Batch) -> None:
        """Let the machine repeat ``last``, one token further each time, until something could change."""
        num_steps = self._num_steady_steps(last)
        if num_steps < MIN_STEPS:
            return
        sequences = [work.sequence for work in last.works if work.sequence.status is SequenceStatus.RUNNING]
        self._coasting = Schedule(grants=tuple(Grant(sequence.id, 1) for sequence in sequences))
        coaster.set_off([sequence.num_tokens for sequence in sequences], num_steps)
        try:
            await coaster.arrive()
        finally:
            self.settle()
            self._coasting = self._under_way = None

    def _num_steady_steps(self, last: Batch) -> int:
        """Return how many steps like ``last`` the policy would ask for; 0 unless that decoded whoever runs."""
        table = self._table
        decoded = {work.sequence.id for work in last.works if work.start >= work.sequence.num_prompt_tokens}
        no_seat = len(table.running) >= self.config.max_num_seqs and len(last.works) == len(table.running)
        if self._inbox or self._closed or (table.waiting and not no_seat):
            return 0
        if len(decoded) < len(last.works) or not {sequence.id for sequence in table.running} <= decoded:
            return 0
        return steady_steps(
            table.running,
            lambda sequence: self._completions[sequence.id][1].num_tokens_left,
            self._kv.num_held_blocks,
            num_free_blocks=self._kv.num_free_blocks,
            block_size=self.config.block_size,
        )

    def settle(self) -> None:
        """Commit the steps of a coast that are over by now. Whoever looks at the engine from outside calls it first."""
        if self._coaster is None or self._coasting is None:
            return
        for start_s, end_s in self._coaster.passed():
            batch = self._under_way or self._plan(self._coasting)
            output = self._coaster.tokens(batch)
            self._advance(batch)
            self._commit(batch, output, end_s)
            self._observe(start_s, end_s, self._coasting, batch, output)
            self._under_way = None
        if self._coaster.is_going and self._under_way is None:
            self._under_way = self._plan(self._coasting)

    async def overlapped_step(self) -> None:
        """Receive and schedule one step while the one before executes; commit that one; let the new one execute.

        The schedule counts on every sequence going on: one that turns out to have ended is dropped before its step
        executes, having held a place in the schedule and perhaps a block for nothing. Requests that come while a step
        executes wait for one step more than in :meth:`step`. Tokens are the same.
        """
        async with self._stepping:
            start_s = now_s()
            self._receive()
            planned = self._schedule() if len(self._table) else None
            landed = await self._land()
            if planned is not None:
                schedule, batch = planned
                if not landed:
                    self._requeue(batch)
                await self._launch(start_s, schedule, batch)

    async def _launch(self, start_s: float, schedule: Schedule, batch: Batch) -> None:
        """Let a step execute, without those of its sequences that have ended since."""
        works = tuple(work for work in batch.works if work.sequence.status is SequenceStatus.RUNNING)
        batch = Batch(batch.step, works)
        if not works:
            self._observe(start_s, now_s(), schedule, batch, StepOutput({}))
            return
        self._view.sampling = frozenset(work.sequence.id for work in works if work.reaches_end)
        self._advance(batch)
        execution = asyncio.create_task(self._executor.execute(batch))
        self._flight = _Flight(start_s, schedule, batch, execution)
        await asyncio.sleep(0)  # it begins now, not when the next step is scheduled

    async def _land(self) -> bool:
        """Wait for the step in flight, if there is one, and commit it; return whether it did not fail."""
        flight, self._flight = self._flight, None
        if flight is None:
            return True
        error: Exception | None = None
        try:
            output = await flight.execution
        except Exception as caught:
            error, output = caught, StepOutput({})
            self._fail(flight.batch, caught)
        else:
            self._commit(flight.batch, output, now_s())
        self._view.sampling = frozenset()
        self._observe(flight.start_s, now_s(), flight.schedule, flight.batch, output)
        return error is None

    def _requeue(self, batch: Batch) -> None:
        """Take back a planned step that may rest on keys and values which a failed step did not write."""
        for work in batch.works:
            if work.sequence.status is SequenceStatus.RUNNING:
                self._kv.release(work.sequence)
                self._table.preempt(work.sequence)

    @asynccontextmanager
    async def between_steps(self) -> AsyncGenerator[KVManager, None]:
        """Hold the engine still, with no step under way, and give access to its KV books.

        Raises:
            EngineStoppedError: if the engine was closed.
        """
        if self._coaster is not None:
            self._coaster.stop()
        async with self._stepping:
            await self._land()
            if self._closed:
                raise EngineStoppedError("it was closed", field="engine", remedy="Make a new one")
            yield self._kv

    async def close(self) -> None:
        """Let the step in flight end, end every request with an error, and release the executor. Idempotent."""
        if self._released:
            return
        self._closed = self._released = True
        self._wake.set()
        self._room.set()
        if self._coaster is not None:
            self._coaster.stop()
        stopped = EngineStoppedError("it was closed while working", field="engine", remedy="Make a new one")
        async with self._stepping:
            await self._land()
            self._end_all(stopped)
        await self._executor.close()

    def _receive(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _schedule(self) -> tuple[Schedule, Batch]:
        self._view.now_s = now_s()
        schedule = self._policy(self._view)
        for sequence_id in schedule.preempt:
            self._kv.release(self._table[sequence_id])
            self._table.preempt(self._table[sequence_id])
        assert schedule.grants or schedule.preempt, "the policy does nothing although sequences wait"
        return schedule, self._plan(schedule)

    def _plan(self, schedule: Schedule) -> Batch:
        batch = Batch(self._num_steps, tuple(self._carry_out(grant) for grant in schedule.grants))
        self._num_steps += 1
        return batch

    def _carry_out(self, grant: Grant) -> SequenceWork:
        sequence = self._table[grant.sequence_id]
        if sequence.status is SequenceStatus.WAITING:
            sequence.num_computed_tokens = self._kv.admit(sequence)
            self._table.start(sequence)
            self._completions[sequence.id][0].note_scheduled(now_s(), sequence.num_computed_tokens)
        start = sequence.num_computed_tokens
        foreseen = int(sequence.id in self._view.sampling)
        num_tokens = min(grant.num_tokens, sequence.num_new_tokens + foreseen)
        self._kv.grow(sequence, start + num_tokens)
        return SequenceWork(sequence, start, num_tokens, self._kv.block_table(sequence.id))

    def _advance(self, batch: Batch) -> None:
        for work in batch.works:
            work.sequence.num_computed_tokens = work.end

    def _commit(self, batch: Batch, output: StepOutput, now: float) -> None:
        self._num_failed_in_a_row = 0
        for work in batch.works:
            sequence = work.sequence
            if sequence.status is SequenceStatus.FINISHED:  # cancelled while its step executed
                continue
            response, completion = self._completions[sequence.id]
            if sequence.id in output.prompt_logprobs and sequence.index == 0:
                response.note_prompt_logprobs(work.start + 1, output.prompt_logprobs[sequence.id])
            if sequence.id in output.failed:
                self._end(response, FinishReason.ERROR, output.failed[sequence.id])
            if sequence.pooling is not None:
                self._commit_pooled(work, response, output.pooled[sequence.id])
            for token in output.sampled.get(sequence.id, ()):
                completion.push(token)
                response.note_token(now)
                if completion.finish_reason is not None:
                    self._finish(sequence)
                    break

    def _commit_pooled(self, work: SequenceWork, response: EngineResponse, part: tuple[float, ...]) -> None:
        response.note_pooled(work.start, part, is_last=work.reaches_end)
        if work.reaches_end:
            self._end(response, FinishReason.STOP)

    # -- consequences ---------------------------------------------------------------------------------------------

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._wake.set()
        if self._coaster is not None:
            self._coaster.stop()

    def _sequence(self, request: Request, index: int) -> Sequence:
        seed = request.params.seed if request.params.seed is not None else self._rng.getrandbits(_SEED_BITS)
        return Sequence(
            id=next(self._ids),
            request_id=request.id,
            index=index,
            prompt=request.prompt_token_ids,
            params=request.params,
            seed=seed + index,
            arrival_s=now_s(),
            priority=request.priority,
            cache_salt=request.cache_salt,
            tenant=request.tenant,
            pooling=request.pooling,
        )

    def _live(self, sequence: Sequence) -> LiveSequence:
        running = sequence.status is SequenceStatus.RUNNING
        return LiveSequence(
            id=sequence.id,
            running=running,
            arrival_s=sequence.arrival_s,
            num_prompt_tokens=sequence.num_prompt_tokens,
            num_tokens=sequence.num_tokens,
            num_computed_tokens=sequence.num_computed_tokens,
            num_blocks=self._kv.num_held_blocks(sequence.id) if running else 0,
            num_preemptions=sequence.num_preemptions,
        )

    def _longest_blocks(self, sequence: Sequence) -> int:
        """Return the KV blocks of a sequence at its longest."""
        longest = self.config.max_model_len
        if sequence.params.max_tokens is not None:
            longest = min(longest, sequence.num_prompt_tokens + sequence.params.max_tokens)
        return ceil_div(longest, self.config.block_size)

    def _completion(self, request: Request, sequence: Sequence) -> CompletionState:
        """Return the completion of ``sequence``, with the output that exists already."""
        completion = CompletionState(sequence, self._eos, self.config.max_model_len, self._text)
        for token in request.output:
            if completion.finish_reason is None:
                completion.push(token)
        if completion.finish_reason is not None:
            problem = f"the answer ends within the {len(request.output)} tokens that exist already"
            raise ParamsError(problem, field="output", remedy="Do not continue what has ended")
        return completion

    def _admit(self, response: EngineResponse, sequences: list[Sequence]) -> None:
        self._num_in_inbox -= len(sequences)
        if response.finished:
            return
        for sequence, completion in zip(sequences, response.completions, strict=True):
            self._completions[sequence.id] = (response, completion)
            self._table.add(sequence)

    def _finish(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            self._kv.release(sequence)
        self._kv.forget(sequence.id)
        self._promises.drop(sequence.id)
        self._table.finish(sequence)
        response, _ = self._completions.pop(sequence.id)
        if response.finished:
            self._forget(response.request.id)
        self._room.set()

    def _end(self, response: EngineResponse, reason: FinishReason, error: SteelyardError | None = None) -> None:
        """End a request, unless it has ended already."""
        if self._responses.get(response.request.id) is not response:
            return
        self._forget(response.request.id)
        response.end(reason, error)
        for completion in response.completions:
            self._promises.drop(completion.sequence.id)
            if completion.sequence.id in self._table:
                self._finish(completion.sequence)
        self._room.set()

    def _forget(self, request_id: str) -> None:
        """Drop a request that has ended; a timer left behind would hold it in memory until a far deadline."""
        self._responses.pop(request_id, None)
        timer = self._deadlines.pop(request_id, None)
        if timer is not None:
            timer.cancel()

    def _end_all(self, error: SteelyardError) -> None:
        self._receive()
        for response in list(self._responses.values()):
            self._end(response, FinishReason.ERROR, error)

    def _fail(self, batch: Batch, cause: Exception) -> None:
        """End the requests of a failed step; the blocks they filled may hold anything, so no cached prefix survives.

        Raises:
            SteelyardError: what failed, if so many steps in a row have failed that the engine must end, too.
        """
        error = cause if isinstance(cause, SteelyardError) else _step_failed("executor", cause)
        for request_id in dict.fromkeys(work.sequence.request_id for work in batch.works):
            if request_id in self._responses:  # not cancelled while its step executed
                self._end(self._responses[request_id], FinishReason.ERROR, error)
        self._kv.reset_prefix_cache()
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row >= MAX_FAILED_STEPS and not self._closed:
            raise error

    def _watch_deadline(self, response: EngineResponse, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_at(deadline_s, self._post, lambda: self._end(response, FinishReason.DEADLINE))
        self._deadlines[response.request.id] = timer

    def _observe(self, start_s: float, end_s: float, schedule: Schedule, batch: Batch, output: StepOutput) -> None:
        if not self._observers:
            return
        record = StepRecord(
            step=batch.step,
            start_s=start_s,
            end_s=end_s,
            schedule=schedule,
            works=tuple((work.sequence.id, work.start, work.num_tokens) for work in batch.works),
            sampled=tuple(output.sampled),
            num_running=len(self._table.running),
            num_waiting=len(self._table.waiting),
            num_free_blocks=self._kv.num_free_blocks,
        )
        for observer in self._observers:
            observer(record)

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` if a block leaked, a refcount is wrong, or a sequence or request is lost."""
        self._table.check_invariants()
        self._kv.check_invariants([sequence.id for sequence in self._table.running])
        live = {sequence.id for sequence in self._table.waiting + self._table.running}
        assert live == set(self._completions), "a sequence without a completion, or the reverse"
        for sequence in self._table.running:
            held = self._kv.num_held_blocks(sequence.id) * self.config.block_size
            assert held >= sequence.num_computed_tokens, "computed tokens without blocks"
        owners = {response.request.id for response, _ in self._completions.values()}
        assert owners <= set(self._responses), "a sequence outlived its request"
        assert set(self._deadlines) <= set(self._responses), "a deadline outlived its request"
        unended = [c.sequence for r in self._responses.values() for c in r.completions if c.finish_reason is None]
        promised = sum(self._longest_blocks(sequence) for sequence in unended)
        assert self._promises.num_blocks == promised, "blocks are promised to nobody"


def _step_failed(field: str, cause: Exception) -> EngineStoppedError:
    error = EngineStoppedError(
        f"the step failed: {type(cause).__name__}: {cause}",
        field=field,
        remedy="Run again with --debug to see where",
    )
    error.__cause__ = cause
    return error
