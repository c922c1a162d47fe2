"""What a simulation found: every request, every machine, and the figures that sum them up.

Nothing in it depends on how fast the simulation itself ran: the same inputs give the same result to the bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np

from steelyard.core.errors import ParamsError

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0
PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class RequestRecord:
    """One request of the trace.

    Attributes:
        number: its place in the trace, from 0.
        arrival_s: when it came.
        num_prompt_tokens: of its prompt.
        num_output_tokens: that it asked for.
        first_token_s: when its first token was there; ``None`` if it never was.
        end_s: when its last token was there, or it was given up; ``None`` while it is under way.
        num_tokens: that it was given.
        num_cached_tokens: of its prompt that the last replica found in its prefix cache.
        outcome: ``done``, or the name of the error that ended it.
        tenant: who asked.
    """

    number: int
    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    first_token_s: float | None = None
    end_s: float | None = None
    num_tokens: int = 0
    num_cached_tokens: int = 0
    outcome: str = ""
    tenant: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it was answered in full."""
        return self.outcome == "done"

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float | None:
        """Time to the last token, if it was answered in full."""
        return None if self.end_s is None or not self.is_done else self.end_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; ``None`` if there was but one, or it was not answered in full."""
        if self.e2e_s is None or self.first_token_s is None or self.end_s is None or self.num_tokens < 2:
            return None
        return (self.end_s - self.first_token_s) / (self.num_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What an answer must keep to for its request to count as served well; ``None`` for no bound.

    Raises:
        ParamsError: if a bound is not positive.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ParamsError(f"{bound} is no bound", field=name, remedy="Give seconds above 0")

    def holds(self, request: RequestRecord) -> bool:
        """Whether a request was answered in full and within every bound."""
        pairs = ((request.ttft_s, self.ttft_s), (request.tpot_s, self.tpot_s), (request.e2e_s, self.e2e_s))
        return request.is_done and all(bound is None or time is None or time <= bound for time, bound in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """One replica over its life.

    Attributes:
        name: of the replica.
        group: of which group it is.
        start_s: when it was ordered: what it costs and draws counts from then on.
        end_s: when it died or left, or the simulation ended.
        num_steps: it computed.
        busy_s: in steps.
        num_prefill_tokens: tokens of prompts computed, again after a preemption.
        num_decode_tokens: tokens computed one at a time.
        num_preemptions: of its sequences.
        num_hit_tokens: found in its prefix cache at admissions.
        num_miss_tokens: not found there.
        busy_joules: drawn in steps.
        idle_joules: drawn between them, and by the host all along.
        dollars: its price for that time; ``None`` if not known.
    """

    name: str
    group: str
    start_s: float
    end_s: float
    num_steps: int
    busy_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    num_preemptions: int
    num_hit_tokens: int
    num_miss_tokens: int
    busy_joules: float
    idle_joules: float
    dollars: float | None

    @property
    def utilisation(self) -> float:
        """Share of its life in steps."""
        life_s = self.end_s - self.start_s
        return self.busy_s / life_s if life_s > 0 else 0.0

    @property
    def joules(self) -> float:
        """Drawn in all."""
        return self.busy_joules + self.idle_joules


@dataclass(frozen=True, slots=True)
class Sample:
    """One replica at one moment.

    Attributes:
        at_s: when.
        machine: whose.
        num_running: sequences with a seat.
        num_waiting: sequences without.
        kv_share: of its KV blocks, those in use.
        busy_share: of the time since the sample before, spent in steps.
        watts: drawn since then, on average.
    """

    at_s: float
    machine: str
    num_running: int
    num_waiting: int
    kv_share: float
    busy_share: float
    watts: float


@unique
class EventKind(StrEnum):
    """What may happen to a replica."""

    DIED = "died"
    REPAIRED = "repaired"
    SLOW = "slow"
    NOT_SLOW = "no longer slow"
    CUT_OFF = "cut off"
    RECONNECTED = "reconnected"
    ADDED = "added"
    RETIRED = "retired"
    CAPPED = "capped"
    BRAKED = "braked"
    RELEASED = "brake released"
    FULL_CLOCK = "at full clock"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a replica.

    Attributes:
        at_s: when.
        machine: to which.
        kind: what.
    """

    at_s: float
    machine: str
    kind: EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRecord:
    """How a row of machines kept to its power budget.

    Attributes:
        watts: of the budget.
        peak_share: of it, the most that a look found; a look sees the mean since the one before.
        mean_share: of it, over all looks.
        num_brakes: times that everything was braked.
        low_capped_s: during which low priority ran below its full clock, brakes included.
        high_capped_s: the same of high priority.
    """

    watts: float
    peak_share: float
    mean_share: float
    num_brakes: int
    low_capped_s: float
    high_capped_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How a time is spread; seconds, ``None`` of nothing."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


def spread(times: Iterable[float | None]) -> Spread:
    """Return the spread of the times that are known; percentiles are interpolated between neighbours."""
    known = np.array([time for time in times if time is not None], dtype=np.float64)
    if not len(known):
        return Spread(None, None, None, None, None)
    p50, p90, p99 = (float(number) for number in np.percentile(known, PERCENTILES))
    return Spread(float(known.mean()), p50, p90, p99, float(known.max()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A simulation in figures.

    Attributes:
        num_requests: of the trace.
        num_done: answered in full.
        outcomes: how the others ended, and how often.
        span_s: from the first arrival to the last end.
        ttft_s: time to first token.
        tpot_s: mean time per token after the first.
        e2e_s: time to the last token.
        alone_ttft_s: what the first token would take on an idle replica: no fleet of these goes below.
        alone_tpot_s: what further tokens would take there.
        requests_per_s: answered in full, over the span.
        output_tokens_per_s: of all requests, over the span.
        goodput_per_s: requests within the objective, over the span; ``None`` without an objective.
        slo_share: of all requests, those within it.
        utilisation: mean share of time in steps.
        replica_hours: of all machines together.
        events: what happened to machines, and how often.
        num_retries: times that a request was sent again before anything of its answer was there.
        num_continuations: times that an answer went on elsewhere.
        num_steps: of all machines.
        num_preemptions: of all machines.
        hit_share: of prompt tokens, those found in a prefix cache.
        power: how the budget was kept to; ``None`` without one.
        kwh: energy; 0 if no power is known.
        dollars: ``None`` if a price is not known.
    """

    num_requests: int
    num_done: int
    outcomes: dict[str, int]
    span_s: float
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    alone_ttft_s: Spread
    alone_tpot_s: Spread
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float | None
    slo_share: float | None
    utilisation: float
    replica_hours: float
    events: dict[str, int]
    num_retries: int
    num_continuations: int
    num_steps: int
    num_preemptions: int
    hit_share: float
    power: PowerRecord | None
    kwh: float
    dollars: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """Everything that happened.

    Attributes:
        requests: all of the trace, in its order.
        machines: all that ever stood, in the order of starting.
        samples: of all machines, in the order of time.
        events: what happened to machines, in the order of time.
        num_retries: see :class:`~steelyard.fleet.dispatcher.Dispatcher`.
        num_continuations: the same.
        power: how the budget was kept to; ``None`` without one.
        slo: what requests are held against; ``None`` for nothing.
        alone: (TTFT, TPOT) of each request on an idle replica, seconds.
    """

    requests: tuple[RequestRecord, ...]
    machines: tuple[MachineRecord, ...]
    samples: tuple[Sample, ...]
    events: tuple[Event, ...]
    num_retries: int
    num_continuations: int
    power: PowerRecord | None
    slo: Slo | None
    alone: tuple[tuple[float, float], ...]

    @property
    def span_s(self) -> float:
        """From the first arrival to the last end."""
        return max(one.end_s or 0.0 for one in self.requests) - self.requests[0].arrival_s

    def summary(self) -> Summary:
        """Return it in figures."""
        requests, machines, span_s = self.requests, self.machines, max(self.span_s, 1e-12)
        done = [one for one in requests if one.is_done]
        good = None if self.slo is None else sum(map(self.slo.holds, requests))
        hits, misses = total(machines, lambda m: m.num_hit_tokens), total(machines, lambda m: m.num_miss_tokens)
        dollars = [machine.dollars for machine in machines]
        known_dollars = [price for price in dollars if price is not None]
        life_s = total(machines, lambda m: m.end_s - m.start_s)
        return Summary(
            num_requests=len(requests),
            num_done=len(done),
            outcomes=dict(sorted(Counter(one.outcome for one in requests if not one.is_done).items())),
            span_s=self.span_s,
            ttft_s=spread(one.ttft_s for one in requests),
            tpot_s=spread(one.tpot_s for one in requests),
            e2e_s=spread(one.e2e_s for one in requests),
            alone_ttft_s=spread(ttft_s for ttft_s, _ in self.alone),
            alone_tpot_s=spread(tpot_s for _, tpot_s in self.alone),
            requests_per_s=len(done) / span_s,
            output_tokens_per_s=sum(one.num_tokens for one in requests) / span_s,
            goodput_per_s=None if good is None else good / span_s,
            slo_share=None if good is None else good / len(requests),
            utilisation=total(machines, lambda m: m.busy_s) / life_s if life_s > 0 else 0.0,
            replica_hours=life_s / SECONDS_PER_HOUR,
            events=dict(sorted(Counter(event.kind.value for event in self.events).items())),
            num_retries=self.num_retries,
            num_continuations=self.num_continuations,
            num_steps=sum(machine.num_steps for machine in machines),
            num_preemptions=sum(machine.num_preemptions for machine in machines),
            hit_share=hits / (hits + misses) if hits + misses else 0.0,
            power=self.power,
            kwh=total(machines, lambda m: m.joules) / JOULES_PER_KWH,
            dollars=sum(known_dollars) if len(known_dollars) == len(dollars) else None,
        )


def total(machines: Sequence[MachineRecord], of: Callable[[MachineRecord], float]) -> float:
    """Return the sum of a figure over machines."""
    return sum(map(of, machines))
