"""What every registered routing policy must do: random fleets that change, requests that come and end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import NoReplicaError, ParamsError
from steelyard.policies.route import ROUTE_POLICIES, make_route_policy
from steelyard.policies.route.types import ReplicaView, RoutePolicy, RouteRequest

VARIANTS: list[tuple[str, dict[str, float]]] = [
    ("least_loaded", {}),
    ("power_of_two", {}),
    ("power_of_two", {"seed": 5}),
    ("prefix_affinity", {}),
    ("prefix_affinity", {"load_factor": 2.0, "max_blocks": 3}),
    ("round_robin", {}),
]
# In a fleet that does not change, and whose requests never end, these give everybody something.
SERVES_ALL = [variant for variant in VARIANTS if variant[0] != "power_of_two"]


def test_every_registered_policy_is_under_test():
    assert {name for name, _ in VARIANTS} == ROUTE_POLICIES.keys()


@dataclass
class Fleet:
    """Replicas whose loads follow what is sent to them."""

    replicas: list[ReplicaView]
    sent: list[tuple[str, RouteRequest]] = field(default_factory=list)

    def send(self, policy: RoutePolicy, request: RouteRequest) -> ReplicaView:
        before = list(self.replicas)
        index = policy(request, self.replicas)
        assert self.replicas == before, "deciding changed the view"
        chosen = self.replicas[index]
        assert chosen.healthy
        self._add(chosen.id, 1, request.num_tokens)
        self.sent.append((chosen.id, request))
        return chosen

    def finish(self, rng: Random) -> None:
        name, request = self.sent.pop(rng.randrange(len(self.sent)))
        self._add(name, -1, -request.num_tokens)

    def change(self, rng: Random) -> None:
        """One falls ill or recovers, leaves, joins, or all change places; somebody stays healthy."""
        kind, index = rng.randrange(4), rng.randrange(len(self.replicas))
        if kind == 0:
            self.replicas[index] = replace(self.replicas[index], healthy=not self.replicas[index].healthy)
        elif kind == 1 and len(self.replicas) > 1:
            gone = self.replicas.pop(index)
            self.sent = [entry for entry in self.sent if entry[0] != gone.id]
        elif kind == 2:
            self.replicas.append(ReplicaView(id=f"new-{rng.random()}", capacity=rng.choice([1.0, 2.0])))
        rng.shuffle(self.replicas)
        if not any(replica.healthy for replica in self.replicas):
            self.replicas[0] = replace(self.replicas[0], healthy=True)

    def _add(self, name: str, num_requests: int, num_tokens: int) -> None:
        for index, replica in enumerate(self.replicas):
            if replica.id == name:
                self.replicas[index] = replace(
                    replica,
                    num_outstanding_requests=replica.num_outstanding_requests + num_requests,
                    num_outstanding_tokens=replica.num_outstanding_tokens + num_tokens,
                )


def fleet(size: int) -> Fleet:
    return Fleet([ReplicaView(id=f"replica-{number}") for number in range(size)])


def request(rng: Random) -> RouteRequest:
    stem, depth = rng.randrange(4), rng.randrange(4)
    prefix = tuple(f"{stem}/{level if level < 2 else rng.random()}".encode() for level in range(depth))
    return RouteRequest(num_tokens=rng.randint(1, 200), prefix=prefix)


def run(name: str, options: dict[str, float], seed: int) -> list[str]:
    policy, rng, replicas = make_route_policy(name, **options), Random(seed), fleet(4)
    chosen = []
    for _ in range(120):
        if rng.random() < 0.1:
            replicas.change(rng)
        while replicas.sent and rng.random() < 0.4:
            replicas.finish(rng)
        chosen.append(replicas.send(policy, request(rng)).id)
    return chosen


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_a_changing_fleet(name, options, seed):
    """Only healthy ones are chosen (``Fleet.send``), and the same seed gives the same choices."""
    assert run(name, options, seed) == run(name, options, seed)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_order_of_the_list_does_not_matter(name, options):
    straight, turned, rng = make_route_policy(name, **options), make_route_policy(name, **options), Random(3)
    replicas = fleet(5)
    for _ in range(60):
        asked = request(rng)
        expected = replicas.replicas[turned(asked, replicas.replicas[::-1]) * -1 - 1]
        assert replicas.send(straight, asked).id == expected.id


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_nobody_healthy_is_an_error_and_no_end(name, options):
    policy = make_route_policy(name, **options)
    sick = [ReplicaView(id="a", healthy=False), ReplicaView(id="b", healthy=False)]
    asked = RouteRequest(num_tokens=10, prefix=(b"x",))
    for replicas in (sick, []):
        with pytest.raises(NoReplicaError, match=f"none of {len(replicas)} is healthy"):
            policy(asked, replicas)
    assert policy(asked, [sick[0], replace(sick[1], healthy=True)]) == 1


@pytest.mark.parametrize(("name", "options"), SERVES_ALL)
def test_no_replica_starves(name, options):
    policy, rng, replicas = make_route_policy(name, **options), Random(1), fleet(5)
    counts = Counter(replicas.send(policy, request(rng)).id for _ in range(100))
    assert len(counts) == 5


@pytest.mark.parametrize("name", ["least_loaded", "prefix_affinity"])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_load_is_bounded(name, seed):
    """After each choice the load is at most the factor × the mean and one request more (prefix_affinity's promise)."""
    policy, rng, replicas = make_route_policy(name), Random(seed), fleet(4)
    for _ in range(100):
        while replicas.sent and rng.random() < 0.45:
            replicas.finish(rng)
        asked = request(rng)
        loads = [replica.load for replica in replicas.replicas]
        mean = (sum(loads) + asked.num_tokens) / len(loads)
        chosen = replicas.send(policy, asked)
        assert chosen.load <= 1.25 * mean


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ParamsError, match=", ".join(ROUTE_POLICIES)) as caught:
        make_route_policy("random")
    assert caught.value.field == "route_policy"
    with pytest.raises(ParamsError, match="load_factor, max_blocks"):
        make_route_policy("prefix_affinity", factor=2)
