"""A modelled machine: steps take what a :class:`~steelyard.cost.estimate.StepModel` says, on virtual time.

It computes the engine's steps one by one, or as a :class:`~steelyard.engine.coasting.Coaster` a run of decode steps at
once; its meters count what it did either way. It can be slowed down and run at less than its full clock; what is under
way then ends as it began. The order of a step's sequences makes no difference to what it takes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from steelyard.core.batch import Batch, StepOutput
from steelyard.cost.estimate import StepModel
from steelyard.cost.roofline import SequenceShape, StepShape
from steelyard.engine.executor import TokenSource
from steelyard.sim.virtual import VirtualLoop, resolve, until

_FIRST_CHUNK = 16
_LONGEST_CHUNK = 256


@dataclass(slots=True)
class MachineMeter:
    """What a machine did so far.

    Attributes:
        num_steps: steps that are over.
        num_prefill_tokens: computed beyond each sequence's last known one.
        num_decode_tokens: steps' sequences that computed a single token.
        busy_s: in steps.
        joules: of those steps; 0 as long as the model knows no power.
    """

    num_steps: int = 0
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
    busy_s: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True, slots=True)
class _Step:
    end_s: float
    seconds: float
    watts: float


@dataclass(slots=True)
class _Run:
    """A run of decode steps under way.

    Attributes:
        contexts: of the first step, ascending.
        num_steps: of the whole run.
        start_s: of the first step.
        steps: those foreseen so far, in order.
        num_taken: of them, reported as over.
        arrival: resolves when the last step foreseen is over.
        timer: that resolves it.
    """

    contexts: list[int]
    num_steps: int
    start_s: float
    steps: list[_Step]
    num_taken: int
    arrival: asyncio.Future[None] | None = None
    timer: asyncio.TimerHandle | None = None


@final
class ModelledMachine:
    """An executor and coaster for one engine; to be made inside a running :class:`~steelyard.sim.virtual.VirtualLoop`.

    Args:
        model: says how long steps take.
        tokens: what they sample.
        rank: among machines, for what happens at one moment: steps end in the order of it; at least 1.

    Attributes:
        meter: what it did so far.
    """

    def __init__(self, model: StepModel, tokens: TokenSource, rank: int) -> None:
        assert rank >= 1, "rank 0 is for what is not a machine"
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "a modelled machine knows no other time"
        self._model, self._tokens, self._rank, self._loop = model, tokens, rank, loop
        self._slowdown, self._clock_share = 1.0, 1.0
        self._run: _Run | None = None
        self._step: _Step | None = None  # under way, of those that are taken one by one
        self.meter = MachineMeter()

    # -- steps one by one -------------------------------------------------------------------------------------------

    async def execute(self, batch: Batch) -> StepOutput:
        """Sleep the modelled time, then return the tokens."""
        shapes = sorted((work.num_tokens, work.end) for work in batch.works)
        step = self._foreseen(self._loop.time(), tuple(SequenceShape(*shape) for shape in shapes))
        self._step = step
        await until(step.end_s, self._rank)
        self._step = None
        num_decodes = sum(work.num_tokens == 1 for work in batch.works)
        self._count(step, num_decodes, batch.num_tokens - num_decodes)
        return self._tokens(batch)

    async def close(self) -> None:
        """Nothing to release."""

    # -- conditions -------------------------------------------------------------------------------------------------

    @property
    def clock_share(self) -> float:
        """Of the devices' full clock that the next step runs at."""
        return self._clock_share

    def set_clock_share(self, share: float) -> None:
        """Run at this share of the full clock from the next step on."""
        if share != self._clock_share:
            self._clock_share = share
            self.stop()

    def set_slowdown(self, factor: float) -> None:
        """Take ``factor`` times as long per step from the next one on; 1 is as the model says."""
        if factor != self._slowdown:
            self._slowdown = factor
            self.stop()

    def progress(self) -> tuple[float, float]:
        """Return the seconds in steps and the joules drawn in them, the begun part of a step under way included.

        Whoever looks settles the engine first, so that all steps that are over are counted.
        """
        step, meter = self._step if self._run is None else self._current(self._run), self.meter
        if step is None:
            return meter.busy_s, meter.joules
        begun_s = step.seconds - (step.end_s - self._loop.time())
        return meter.busy_s + begun_s, meter.joules + step.watts * begun_s

    # -- runs of steps ----------------------------------------------------------------------------------------------

    def set_off(self, contexts: Sequence[int], num_steps: int) -> None:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        assert self._run is None, "a run is under way"
        self._run = _Run(sorted(contexts), num_steps, self._loop.time(), [], 0)

    async def arrive(self) -> None:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        run = self._run
        assert run is not None, "no run is under way"
        chunk = _FIRST_CHUNK
        while len(run.steps) < run.num_steps:
            self._look_ahead(run, min(chunk, run.num_steps - len(run.steps)))
            chunk = min(2 * chunk, _LONGEST_CHUNK)
            run.arrival = self._loop.create_future()
            self._aim(run)
            await run.arrival

    def stop(self) -> None:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        run = self._run
        if run is None or run.timer is None:
            return
        current = bisect_left(run.steps, True, key=self._is_ahead)
        del run.steps[current + 1 :]
        run.num_steps = len(run.steps)
        run.timer.cancel()
        self._aim(run)

    @property
    def is_going(self) -> bool:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        return self._run is not None

    def passed(self) -> Iterable[tuple[float, float]]:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        run, found = self._run, list[tuple[float, float]]()
        if run is None:
            return found
        while run.num_taken < len(run.steps):
            step = run.steps[run.num_taken]
            if not self._loop.is_past(step.end_s, self._rank):
                break
            found.append((run.steps[run.num_taken - 1].end_s if run.num_taken else run.start_s, step.end_s))
            self._count(step, len(run.contexts), 0)
            run.num_taken += 1
        if run.num_taken == run.num_steps:
            self._run = None
        return found

    @property
    def num_unseen_tokens(self) -> int:
        """Decode tokens of steps that are over and that :meth:`passed` has not told yet."""
        run = self._run
        if run is None:
            return 0
        ended = bisect_left(run.steps, True, run.num_taken, key=self._is_ahead)
        return (ended - run.num_taken) * len(run.contexts)

    def _current(self, run: _Run) -> _Step | None:
        current = bisect_left(run.steps, True, run.num_taken, key=self._is_ahead)
        return run.steps[current] if current < len(run.steps) else None

    def _is_ahead(self, step: _Step) -> bool:
        return not self._loop.is_past(step.end_s, self._rank)

    def tokens(self, batch: Batch) -> StepOutput:
        """See :class:`~steelyard.engine.coasting.Coaster`."""
        return self._tokens(batch)

    def _look_ahead(self, run: _Run, num_steps: int) -> None:
        start_s = run.steps[-1].end_s if run.steps else run.start_s
        for index in range(len(run.steps), len(run.steps) + num_steps):
            step = self._foreseen(start_s, tuple(SequenceShape(1, context + index) for context in run.contexts))
            run.steps.append(step)
            start_s = step.end_s

    def _aim(self, run: _Run) -> None:
        arrival = run.arrival
        assert arrival is not None
        run.timer = self._loop.call_at_rank(run.steps[-1].end_s, self._rank, lambda: resolve(arrival))

    def _foreseen(self, start_s: float, sequences: tuple[SequenceShape, ...]) -> _Step:
        estimate = self._model.estimate(StepShape(sequences), clock_share=self._clock_share)
        seconds = estimate.seconds * self._slowdown
        return _Step(start_s + seconds, seconds, estimate.watts or 0.0)

    def _count(self, step: _Step, num_decode_tokens: int, num_prefill_tokens: int) -> None:
        meter = self.meter
        meter.num_steps += 1
        meter.busy_s += step.seconds
        meter.joules += step.watts * step.seconds
        meter.num_decode_tokens += num_decode_tokens
        meter.num_prefill_tokens += num_prefill_tokens
