"""What a routing policy sees and what it decides.

A policy is handed a request's measures and a read-only view of the replicas, and answers with an index. It never sees
a clock, a process or the request's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.errors import NoReplicaError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """A replica as policies see it.

    Attributes:
        id: its name, the same for as long as its prefix cache lives.
        healthy: whether it may be given requests.
        num_outstanding_requests: requests sent there that have not ended.
        num_outstanding_tokens: tokens still to be computed for them, outputs as far as they can be foreseen.
        capacity: how fast it is, relative to the others.
    """

    id: str
    healthy: bool = True
    num_outstanding_requests: int = 0
    num_outstanding_tokens: int = 0
    capacity: float = 1.0

    @property
    def load(self) -> float:
        """Outstanding tokens over capacity: how long its work takes, in units of its own."""
        return self.num_outstanding_tokens / self.capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest:
    """A request as policies see it.

    Attributes:
        num_tokens: tokens to be computed for it, its output as far as it can be foreseen.
        prefix: digests of the leading full KV blocks of its prompt, each standing for all tokens up to its end.
        tenant: who is charged for it.
    """

    num_tokens: int
    prefix: tuple[bytes, ...] = ()
    tenant: str = ""


class RoutePolicy(Protocol):
    """Decides where a request goes."""

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
        """Return the index in ``replicas`` of a healthy one, to which the request then goes.

        Replicas may come, go and change their order between calls; their ids tell which are which.

        Raises:
            NoReplicaError: if none is healthy.
        """


def healthy_indices(replicas: Sequence[ReplicaView]) -> list[int]:
    """Return the indices of the healthy replicas.

    Raises:
        NoReplicaError: if there are none.
    """
    healthy = [index for index, replica in enumerate(replicas) if replica.healthy]
    if not healthy:
        problem = f"none of {len(replicas)} is healthy"
        raise NoReplicaError(problem, field="replicas", remedy="Try again later, or look why they do not answer")
    return healthy


def load_order(replica: ReplicaView) -> tuple[float, int, str]:
    """Return the key that sorts replicas from the least loaded to the most, whatever their order in the list."""
    return (replica.load, replica.num_outstanding_requests, replica.id)
