"""To where the prompt's beginning was sent before, as long as that replica is not overloaded.

The policy remembers which prompt blocks it sent to whom: a guess at each replica's prefix cache that needs no word from
it. Unknown beginnings get a home by rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
Hit Rates", IEEE/ACM ToN 6(1), 1998), so that several routers agree without talking and a replica that leaves moves
only its own. The load bound is that of consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA
2018): the likeliest home whose load is within ``load_factor`` × the mean takes the request.

Left out: hearing from replicas what they evicted. A wrong guess costs a prefill, never a wrong answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import final

from steelyard.policies.registry import check_count, check_number
from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest, healthy_indices, load_order

DEFAULT_LOAD_FACTOR = 1.25
DEFAULT_MAX_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAffinityConfig:
    """Parameters of :class:`PrefixAffinity`.

    Attributes:
        load_factor: the load a replica may reach, relative to the mean of the healthy ones; above 1.
        max_blocks: prompt blocks remembered per replica, the latest ones; about as many as its KV cache has.

    Raises:
        ParamsError: if a value is out of range.
    """

    load_factor: float = DEFAULT_LOAD_FACTOR
    max_blocks: int = DEFAULT_MAX_BLOCKS

    def __post_init__(self) -> None:
        check_number("load_factor", self.load_factor, above=1)
        check_count("max_blocks", self.max_blocks)


@final
class PrefixAffinity:
    """Choose, among healthy replicas with room, the one that was sent the longest part of the prompt's beginning.

    Equal parts go to the less loaded; with none anywhere, the first in the rendezvous order of the prompt's first block
    is chosen; a prompt without a full block goes to the least loaded. A replica has room if its load is at most
    ``load_factor`` × the mean load with this request, so nobody's load exceeds that by more than one request; whoever
    is not above the mean has room, so somebody always has.
    """

    def __init__(self, config: PrefixAffinityConfig) -> None:
        self._config = config
        self._sent: dict[str, OrderedDict[bytes, None]] = {}  # digests by replica, the latest sent last

    def __call__(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> int:
        """See :class:`~steelyard.policies.route.types.RoutePolicy`."""
        healthy = healthy_indices(replicas)
        self._sent = {r.id: self._sent.get(r.id, OrderedDict()) for r in replicas}
        chosen = self._choose(request, [replicas[index] for index in healthy])
        self._remember(chosen, request.prefix)
        return next(index for index in healthy if replicas[index].id == chosen)

    def _choose(self, request: RouteRequest, replicas: Sequence[ReplicaView]) -> str:
        if not request.prefix:
            return min(replicas, key=load_order).id
        roomy = _with_room(request, replicas, self._config.load_factor)
        parts = {replica.id: self._num_sent(replica.id, request.prefix) for replica in roomy}
        longest = max(parts.values())
        if longest == 0:
            return max(roomy, key=lambda replica: _rendezvous(request.prefix[0], replica)).id
        return min((replica for replica in roomy if parts[replica.id] == longest), key=load_order).id

    def _num_sent(self, replica_id: str, prefix: tuple[bytes, ...]) -> int:
        """Return how many leading blocks of ``prefix`` were sent to the replica."""
        sent = self._sent[replica_id]
        return next((count for count, digest in enumerate(prefix) if digest not in sent), len(prefix))

    def _remember(self, replica_id: str, prefix: tuple[bytes, ...]) -> None:
        """Note the blocks as sent; the first of the prompt stay longest, as a cache would evict the tails first."""
        sent = self._sent[replica_id]
        for digest in reversed(prefix):
            sent[digest] = None
            sent.move_to_end(digest)
        while len(sent) > self._config.max_blocks:
            sent.popitem(last=False)


def _with_room(request: RouteRequest, replicas: Sequence[ReplicaView], load_factor: float) -> list[ReplicaView]:
    total = sum(replica.num_outstanding_tokens for replica in replicas) + request.num_tokens
    bound = load_factor * total / sum(replica.capacity for replica in replicas)
    return [replica for replica in replicas if replica.load <= bound]


def _rendezvous(digest: bytes, replica: ReplicaView) -> bytes:
    return blake2b(digest + replica.id.encode(), digest_size=16).digest()


def make_prefix_affinity(
    *, load_factor: float = DEFAULT_LOAD_FACTOR, max_blocks: int = DEFAULT_MAX_BLOCKS
) -> RoutePolicy:
    """Return a :class:`PrefixAffinity`; the options are :class:`PrefixAffinityConfig`'s."""
    return PrefixAffinity(PrefixAffinityConfig(load_factor=load_factor, max_blocks=max_blocks))
