"""Fair share among tenants: the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024.

Each tenant has a counter of the service it was given: prompt tokens when a sequence is admitted, output tokens as they
are sampled, each kind with its own weight, divided by the tenant's share. Waiting sequences are admitted from the
tenant whose counter is smallest, one after another, each admission counting at once. Nobody is made to wait while there
is room: the policy only orders the queue, so it is work-conserving.

A tenant that was away must not live on what it did not use. The smallest counter among waiting tenants only ever rises;
this is the *floor*, and whoever waits counts at least that much (the paper's lift).

Running sequences are served by arrival, whoever they belong to, and are not preempted for fairness: counters change in
every step, and an order that follows them would compute prefills again and again.

The bound, after the paper's for two backlogged clients. Let

    U = input_weight × longest prompt + output_weight × max_num_seqs × longest output,

divided by the smallest share. Counters of tenants that wait are never more than U apart: one that is ahead was last
admitted while it was smallest, and has since been charged that prompt and what was running of it, at most a full house.
So for any two tenants that both wait throughout an interval, the service given to them in it (divided by their shares)
differs by at most 2 U, however many requests either of them sends. The paper's bound is 2 max(w_p L_input, w_q M), M
being the tokens that a running batch holds. Where every seat may hold a sequence of the greatest length this U is no
more; where the KV cache is smaller than that, M must not be taken as its size here, because blocks that one sequence
frees let another of the same batch grow. What was known of a preempted sequence is not charged again.

Left out: predicting how long an output will be, and fairness in KV memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple, final

from steelyard.core.errors import ParamsError
from steelyard.policies.registry import check_number
from steelyard.policies.schedule.in_order import schedule_in_order
from steelyard.policies.schedule.types import Schedule, SchedulePolicy, SchedulerView, SequenceView

DEFAULT_INPUT_WEIGHT = 1.0
DEFAULT_OUTPUT_WEIGHT = 2.0  # the paper's; an output token costs a pass over the weights, a prompt token shares one


@dataclass(frozen=True, slots=True, kw_only=True)
class VtcConfig:
    """Parameters of :class:`VtcPolicy`.

    Attributes:
        input_weight: service that one prompt token counts as.
        output_weight: service that one output token counts as.
        shares: tenant → how much of the machine it is due, relative to the others; 1 for those not named.

    Raises:
        ParamsError: if a weight or share is not a positive number.
    """

    input_weight: float = DEFAULT_INPUT_WEIGHT
    output_weight: float = DEFAULT_OUTPUT_WEIGHT
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("input_weight", self.input_weight, above=0)
        check_number("output_weight", self.output_weight, above=0)
        shares: object = self.shares
        if not isinstance(shares, Mapping):
            problem = f"{shares!r} is not a mapping from tenants to numbers"
            raise ParamsError(problem, field="shares", remedy="Give something like {'batch': 0.5}")
        object.__setattr__(self, "shares", dict(shares))
        for share in self.shares.values():
            check_number("shares", share, above=0)

    def bound(self, *, max_num_seqs: int, max_prompt_tokens: int, max_output_tokens: int) -> float:
        """Return U of the module's docstring, in weighted tokens of a tenant whose share is 1 or more."""
        running = self.output_weight * max_num_seqs * max_output_tokens
        smallest = min(1.0, *self.shares.values()) if self.shares else 1.0
        return (self.input_weight * max_prompt_tokens + running) / smallest


class _Promise(NamedTuple):
    """What a grant comes to if its step succeeds.

    Attributes:
        tenant: whose sequence it is.
        num_known_tokens: tokens known when it was granted.
        num_tokens: tokens known after the step.
    """

    tenant: str
    num_known_tokens: int
    num_tokens: int


@final
class VtcPolicy:
    """Admit waiting sequences from the tenant that was served least; within a tenant by (priority, arrival, id).

    The account is kept by looking: each call charges what the view shows beyond what was charged before, and for a
    granted sequence that is gone since, what its grant promised. A call with the same view charges nothing.
    """

    def __init__(self, config: VtcConfig) -> None:
        self._config = config
        self._counters: dict[str, float] = {}
        self._floor = 0.0
        self._promises: dict[int, _Promise] = {}
        self._num_charged: dict[int, int] = {}  # known tokens already charged, of sequences that were admitted

    @property
    def config(self) -> VtcConfig:
        """What it decides by now."""
        return self._config

    def reconfigure(self, config: VtcConfig) -> None:
        """Decide by ``config`` from the next step on; counters stay as they are."""
        self._config = config

    def counter(self, tenant: str) -> float:
        """Return a tenant's counter: weighted tokens of service over its share, from the floor up."""
        return max(self._counters.get(tenant, 0.0), self._floor)

    def __call__(self, view: SchedulerView) -> Schedule:
        """See :class:`~steelyard.policies.schedule.types.SchedulePolicy`."""
        self._settle(view)
        self._raise_floor(view.waiting)
        turns = self._turns(view.waiting, view.limits.max_num_seqs - len(view.running))

        def rank(sequence: SequenceView) -> tuple[float, ...]:
            return (turns.get(sequence.id, math.inf), sequence.arrival_s, sequence.id)

        schedule = schedule_in_order(view, rank)
        self._promises = _promises(view, schedule)
        return schedule

    def _settle(self, view: SchedulerView) -> None:
        """Charge what the last schedule brought about, and close the accounts of sequences that are gone."""
        running = {sequence.id: sequence for sequence in view.running}
        waiting = {sequence.id for sequence in view.waiting}
        for sequence_id, promise in sorted(self._promises.items()):
            if sequence_id in running:
                self._charge(sequence_id, promise, running[sequence_id].num_tokens)
            elif sequence_id not in waiting:
                self._charge(sequence_id, promise, promise.num_tokens)
        present = running.keys() | waiting
        self._num_charged = {key: count for key, count in self._num_charged.items() if key in present}

    def _charge(self, sequence_id: int, promise: _Promise, num_tokens: int) -> None:
        """Charge a sequence's tenant for all its known tokens that were not charged before."""
        num_input = 0 if sequence_id in self._num_charged else promise.num_known_tokens
        num_output = num_tokens - self._num_charged.get(sequence_id, num_input)
        self._num_charged[sequence_id] = num_tokens
        cost = self._config.input_weight * num_input + self._config.output_weight * num_output
        self._counters[promise.tenant] = self.counter(promise.tenant) + cost / self._share(promise.tenant)

    def _raise_floor(self, waiting: Sequence[SequenceView]) -> None:
        """Raise the floor to the smallest counter that waits; forget counters below it, as it stands for them."""
        tenants = {sequence.tenant for sequence in waiting}
        self._floor = min((self.counter(tenant) for tenant in tenants), default=self._floor)
        self._counters = {tenant: count for tenant, count in self._counters.items() if count > self._floor}

    def _turns(self, waiting: Sequence[SequenceView], num_turns: int) -> dict[int, int]:
        """Return sequence id → place in the order of admission, for the first ``num_turns`` of those that wait."""
        queues: dict[str, list[tuple[int, float, int, SequenceView]]] = defaultdict(list)
        for sequence in waiting:
            queues[sequence.tenant].append((sequence.priority, sequence.arrival_s, sequence.id, sequence))
        for queue in queues.values():
            heapify(queue)
        heads = [(self.counter(tenant), *queue[0][1:3], tenant) for tenant, queue in queues.items()]
        heapify(heads)
        turns: dict[int, int] = {}
        while heads and len(turns) < num_turns:
            count, _, _, tenant = heappop(heads)
            queue = queues[tenant]
            sequence = heappop(queue)[-1]
            turns[sequence.id] = len(turns)
            if queue:
                heappush(heads, (count + self._admission_cost(sequence), *queue[0][1:3], tenant))
        return turns

    def _admission_cost(self, sequence: SequenceView) -> float:
        num_input = 0 if sequence.id in self._num_charged else sequence.num_tokens
        return self._config.input_weight * num_input / self._share(sequence.tenant)

    def _share(self, tenant: str) -> float:
        return self._config.shares.get(tenant, 1.0)


def _promises(view: SchedulerView, schedule: Schedule) -> dict[int, _Promise]:
    """Return sequence id → what its grant comes to."""
    running = {sequence.id: sequence for sequence in view.running}
    waiting = {sequence.id: sequence for sequence in view.waiting}
    promises = {}
    for grant in schedule.grants:
        sequence = running.get(grant.sequence_id) or waiting[grant.sequence_id]
        is_running = grant.sequence_id in running
        start = sequence.num_computed_tokens if is_running else view.cached_prefix(sequence.id).num_tokens
        samples = start + grant.num_tokens >= sequence.num_tokens
        promises[sequence.id] = _Promise(sequence.tenant, sequence.num_tokens, sequence.num_tokens + samples)
    return promises


def make_vtc(
    *,
    input_weight: float = DEFAULT_INPUT_WEIGHT,
    output_weight: float = DEFAULT_OUTPUT_WEIGHT,
    shares: Mapping[str, float] | None = None,
) -> SchedulePolicy:
    """Return a :class:`VtcPolicy`; the options are :class:`VtcConfig`'s."""
    return VtcPolicy(VtcConfig(input_weight=input_weight, output_weight=output_weight, shares=shares or {}))
