"""What a trace is: requests with their times and sizes, whatever they were read from or made by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from steelyard.core.errors import InputError

HASH_BLOCK_TOKENS = 512
MAX_TOKENS = 1 << 24


class TraceRequest(NamedTuple):
    """One request of a trace.

    Attributes:
        arrival_s: from the trace's beginning.
        num_prompt_tokens: at least 1.
        num_output_tokens: that are generated, at least 1.
        hash_ids: one number per block of :data:`HASH_BLOCK_TOKENS` prompt tokens, the last one perhaps partly filled;
            where two prompts begin with the same numbers they begin with the same tokens. Empty if nothing is known
            of the content: then it is shared with nobody.
        tenant: who asks; one that is called as a group of replicas is served by that group only.
    """

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    hash_ids: tuple[int, ...] = ()
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        name: what it is, for reports.
        requests: at least one.
        notices: what the reader had to settle, as sentences.
    """

    name: str
    requests: tuple[TraceRequest, ...]
    notices: tuple[str, ...] = ()

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.requests[-1].arrival_s - self.requests[0].arrival_s

    def first(self, count: int) -> Trace:
        """Return the trace of the first ``count`` requests, at least one."""
        return replace(self, requests=self.requests[:count])

    def faster(self, factor: float) -> Trace:
        """Return the trace with all times divided by ``factor``."""
        requests = tuple(one._replace(arrival_s=one.arrival_s / factor) for one in self.requests)
        return replace(self, requests=requests)


def ordered_trace(name: str, requests: Iterable[TraceRequest], *notices: str) -> Trace:
    """Return the trace of requests in any order, its first arrival at 0; says so if they were not in order.

    Raises:
        InputError: if there are none.
    """
    given = list(requests)
    if not given:
        raise InputError("there are no requests in it", field=name, remedy="Give a trace with at least one")
    ranked = sorted(given, key=lambda one: one.arrival_s)
    start_s = ranked[0].arrival_s
    if ranked != given:
        late = sum(after.arrival_s < before.arrival_s for before, after in pairwise(given))
        notices = (*notices, f"{name} was not in order of time ({late} requests came before their forerunner); sorted")
    shifted = tuple(one._replace(arrival_s=one.arrival_s - start_s) for one in ranked)
    return Trace(name=name, requests=shifted, notices=notices)
