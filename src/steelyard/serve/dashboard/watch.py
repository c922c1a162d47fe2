"""What an engine's steps amounted to lately: :class:`EngineWatch`.

It observes an engine only while somebody looks, and then keeps a step's record and no more. The work is done when
somebody asks: steps are summed up in buckets of :data:`BUCKET_S`, priced by the cost model, and turned into spans, one
for each stretch of time in which a sequence was prefilled or decoded without a pause.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from steelyard.core.clock import now_s
from steelyard.core.errors import InputError
from steelyard.cost.roofline import SequenceShape, StepShape
from steelyard.engine.pricing import Pricing, StepPrice
from steelyard.engine.view import StepRecord
from steelyard.serve.llm import ServedEngine
from steelyard.serve.metrics import TokenTimes

BUCKET_S = 0.5
# Nobody looks any more when nobody has asked for so long.
LINGER_S = 10.0
_MAX_RECORDS = 8192
_NUM_BUCKETS = 240
_NUM_SPANS = 4096
# A pause that does not end a span: the loop's own work between two steps.
_PAUSE_S = 0.02
# Of the steps between two questions only so many are priced, evenly chosen.
_NUM_PRICED = 64


class Phase(Enum):
    """What is done for a sequence."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(slots=True, kw_only=True)
class StepSum:
    """Steps of one phase, summed up; a step with any prefill is one.

    Attributes:
        num_steps: how many.
        measured_s: what they took.
        priced_s: what those of them took that were priced.
        predicted_s: what those should have taken by the calibration; ``None`` if that is not known.
        limit_s: what those take at least, by the roofline.
    """

    num_steps: int = 0
    measured_s: float = 0.0
    priced_s: float = 0.0
    predicted_s: float | None = None
    limit_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Bucket:
    """What happened in one stretch of :data:`BUCKET_S`.

    Attributes:
        start_s: event-loop time.
        num_prompt_tokens: computed in prefills.
        num_output_tokens: sampled.
        phases: its steps.
        num_bytes: read and written by the steps that were priced.
        flop: of the same.
        num_gaps: tokens that followed another of their sequence.
        gap_sum_s: seconds between these two, all together.
        gap_max_s: the longest.
        num_running: sequences after the last step.
        num_waiting: likewise.
        num_preemptions: sequences that lost their blocks.
    """

    start_s: float
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    phases: dict[Phase, StepSum] = field(default_factory=lambda: {phase: StepSum() for phase in Phase})
    num_bytes: float = 0.0
    flop: float = 0.0
    num_gaps: int = 0
    gap_sum_s: float = 0.0
    gap_max_s: float = 0.0
    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0


@dataclass(slots=True)
class Span:
    """A stretch in which a sequence was worked on; ``num_tokens`` are those computed."""

    sequence_id: int
    phase: Phase
    start_s: float
    end_s: float
    num_tokens: int


class EngineWatch:
    """Looks on while an engine works. Use it within the engine's event loop.

    Args:
        engine: what is watched.
        pricing: what its steps are priced by; ``None`` if that is not known.
    """

    def __init__(self, engine: ServedEngine, pricing: Pricing | None) -> None:
        self.engine, self.pricing = engine, pricing
        self._records: deque[StepRecord] = deque(maxlen=_MAX_RECORDS)
        self._note = self._records.append
        self._leave: asyncio.TimerHandle | None = None
        self._buckets: deque[Bucket] = deque(maxlen=_NUM_BUCKETS)
        self._spans: deque[Span] = deque(maxlen=_NUM_SPANS)
        self._open: dict[int, Span] = {}
        self._gaps = TokenTimes()
        self._latest_s = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether the engine's steps are observed now."""
        return self._leave is not None

    def look(self) -> None:
        """Take in what has happened, and go on watching for :data:`LINGER_S`."""
        if self._leave is None:
            self.engine.add_observer(self._note)
        else:
            self._leave.cancel()
        self._leave = asyncio.get_running_loop().call_later(LINGER_S, self._stop)
        stride = 1 + len(self._records) // _NUM_PRICED
        while self._records:
            self._take(self._records.popleft(), stride)

    def buckets(self, since_s: float) -> Iterator[Bucket]:
        """Yield the buckets that were over after ``since_s`` and are now; they change no more."""
        first_s, last_s = since_s - BUCKET_S, now_s() - BUCKET_S
        return (bucket for bucket in self._buckets if first_s < bucket.start_s <= last_s)

    def spans(self, since_s: float) -> Iterator[Span]:
        """Yield the spans that went on after ``since_s``; one that is told again may have grown."""
        for spans in (self._spans, self._open.values()):
            yield from (span for span in spans if span.end_s > since_s)

    def _stop(self) -> None:
        self._leave = None
        self.engine.remove_observer(self._note)
        self._records.clear()
        self._spans.extend(self._open.values())
        self._open.clear()
        self._gaps = TokenTimes()

    def _take(self, record: StepRecord, stride: int) -> None:
        took_s = record.end_s - max(record.start_s, self._latest_s)
        self._latest_s = record.end_s
        bucket = self._bucket(record.end_s)
        bucket.num_running, bucket.num_waiting = record.num_running, record.num_waiting
        bucket.num_preemptions += len(record.schedule.preempt)
        bucket.num_output_tokens += len(record.sampled)
        bucket.num_prompt_tokens += sum(count for _, _, count in record.works if count > 1)
        for gap_s, count in self._gaps.gaps_s(record).items():
            bucket.num_gaps += count
            bucket.gap_sum_s += gap_s * count
            bucket.gap_max_s = max(bucket.gap_max_s, gap_s)
        if record.works:
            self._sum_up(record, bucket, took_s, priced=record.step % stride == 0)
            self._extend_spans(record)

    def _bucket(self, end_s: float) -> Bucket:
        start_s = math.floor(end_s / BUCKET_S) * BUCKET_S
        if not self._buckets or self._buckets[-1].start_s != start_s:
            self._buckets.append(Bucket(start_s=start_s))
        return self._buckets[-1]

    def _sum_up(self, record: StepRecord, bucket: Bucket, took_s: float, *, priced: bool) -> None:
        is_decode = all(count == 1 for _, _, count in record.works)
        phase = bucket.phases[Phase.DECODE if is_decode else Phase.PREFILL]
        phase.num_steps += 1
        phase.measured_s += took_s
        price = self._price(record) if priced else None
        if price is None:
            return
        phase.priced_s += took_s
        phase.limit_s += price.limit_s
        if price.predicted_s is not None:
            phase.predicted_s = (phase.predicted_s or 0.0) + price.predicted_s
        bucket.num_bytes += price.num_bytes
        bucket.flop += price.flop

    def _price(self, record: StepRecord) -> StepPrice | None:
        if self.pricing is None:
            return None
        shapes = tuple(SequenceShape(count, start + count) for _, start, count in record.works)
        return self.pricing.price(StepShape(shapes))

    def _extend_spans(self, record: StepRecord) -> None:
        for sequence_id, _, count in record.works:
            phase = Phase.DECODE if count == 1 else Phase.PREFILL
            span = self._open.get(sequence_id)
            if span is not None and span.phase is phase and record.start_s - span.end_s <= _PAUSE_S:
                span.end_s = record.end_s
                span.num_tokens += count
                continue
            if span is not None:
                self._spans.append(span)
            self._open[sequence_id] = Span(sequence_id, phase, record.start_s, record.end_s, count)
        if len(self._open) > 2 * (record.num_running + len(record.works)) + 64:
            self._close_old_spans(record)

    def _close_old_spans(self, record: StepRecord) -> None:
        """Close the spans of sequences that this step did nothing for: most have ended."""
        now = {sequence_id for sequence_id, _, _ in record.works}
        self._spans.extend(span for one, span in self._open.items() if one not in now)
        self._open = {one: span for one, span in self._open.items() if one in now}


def can_price(pricing: Pricing) -> bool:
    """Return whether the machine's description has the rates that the model's steps need."""
    try:
        pricing.price(StepShape.of((1, 1)))
    except InputError:
        return False
    return True
