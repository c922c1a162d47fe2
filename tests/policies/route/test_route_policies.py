"""What each routing policy promises by itself."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from steelyard.core.errors import ParamsError
from steelyard.policies.route import make_route_policy
from steelyard.policies.route.power_of_two import PowerOfTwo
from steelyard.policies.route.prefix_affinity import PrefixAffinityConfig
from steelyard.policies.route.types import ReplicaView, RouteRequest

NOTHING = RouteRequest(num_tokens=8)


def replicas(*loads: int) -> list[ReplicaView]:
    return [ReplicaView(id=str(index), num_outstanding_tokens=load) for index, load in enumerate(loads)]


def test_round_robin_chooses_each_once_per_round_and_newcomers_once_at_once():
    policy, four = make_route_policy("round_robin"), replicas(9, 0, 0, 0)
    assert [policy(NOTHING, four[:3]) for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [policy(NOTHING, four) for _ in range(5)] == [3, 0, 1, 2, 3]


def test_least_loaded_counts_capacity_and_then_requests():
    policy = make_route_policy("least_loaded")
    slow = ReplicaView(id="slow", num_outstanding_tokens=50, capacity=1.0)
    fast = ReplicaView(id="fast", num_outstanding_tokens=80, capacity=2.0)
    assert policy(NOTHING, [slow, fast]) == 1
    busy = ReplicaView(id="a", num_outstanding_tokens=50, num_outstanding_requests=3)
    calm = ReplicaView(id="b", num_outstanding_tokens=50, num_outstanding_requests=1)
    assert policy(NOTHING, [busy, calm]) == 1


def test_power_of_two_never_chooses_the_most_loaded_of_several_and_reaches_all_others():
    policy, four = PowerOfTwo(Random(0)), replicas(100, 3, 2, 1)
    counts = Counter(policy(NOTHING, four) for _ in range(300))
    assert counts.keys() == {1, 2, 3}
    assert counts[3] > counts[2] > counts[1]


def test_equal_beginnings_go_to_one_replica_and_the_longest_part_wins():
    policy = make_route_policy("prefix_affinity")
    idle = replicas(0, 0, 0, 0)
    home = policy(RouteRequest(num_tokens=8, prefix=(b"system", b"a")), idle)
    assert {policy(RouteRequest(num_tokens=8, prefix=(b"system", b"a", b"b")), idle) for _ in range(5)} == {home}
    full = [r if i != home else ReplicaView(id=r.id, num_outstanding_tokens=1000) for i, r in enumerate(idle)]
    other = policy(RouteRequest(num_tokens=8, prefix=(b"system", b"a", b"c")), full)
    assert other != home, "it has no room"
    assert policy(RouteRequest(num_tokens=8, prefix=(b"system", b"a", b"b", b"x")), idle) == home
    assert policy(RouteRequest(num_tokens=8, prefix=(b"system", b"a", b"c", b"x")), idle) == other


def test_homes_are_the_same_for_every_router_and_mostly_stay_when_one_leaves():
    five = replicas(0, 0, 0, 0, 0)
    prompts = [RouteRequest(num_tokens=8, prefix=(bytes([n]),)) for n in range(200)]
    homes = [five[make_route_policy("prefix_affinity")(prompt, five)].id for prompt in prompts]
    assert min(Counter(homes).values()) > 20
    four = five[:4]
    later = [four[make_route_policy("prefix_affinity")(prompt, four)].id for prompt in prompts]
    assert all(after == before for before, after in zip(homes, later, strict=True) if before != "4")


def test_a_prompt_without_a_full_block_goes_to_the_least_loaded():
    assert make_route_policy("prefix_affinity")(NOTHING, replicas(5, 2, 9)) == 1


def test_a_replica_that_left_is_forgotten_and_one_that_was_ill_is_not():
    policy, prompt = make_route_policy("prefix_affinity"), RouteRequest(num_tokens=8, prefix=(b"x",))
    three = replicas(0, 0, 0)
    home = policy(prompt, three)
    ill = [ReplicaView(id=r.id, healthy=i != home) for i, r in enumerate(three)]
    second = policy(prompt, ill)
    assert second != home
    loaded = [ReplicaView(id=r.id, num_outstanding_tokens=int(i == second)) for i, r in enumerate(three)]
    assert policy(RouteRequest(num_tokens=8, prefix=(b"x", b"y")), loaded) == home, "both know x: the less loaded"
    policy(NOTHING, [r for i, r in enumerate(three) if i != home])
    assert policy(prompt, three) == second, "the first home's memory went with it"


def test_the_latest_blocks_are_remembered_and_of_a_prompt_the_first():
    policy = make_route_policy("prefix_affinity", max_blocks=2)
    policy(RouteRequest(num_tokens=8, prefix=(b"a", b"b", b"c")), replicas(0))
    assert list(policy._sent["0"]) == [b"b", b"a"]


@pytest.mark.parametrize(
    "options", [{"load_factor": 1.0}, {"load_factor": "2"}, {"max_blocks": 0}, {"max_blocks": 1.5}]
)
def test_parameters_are_checked(options):
    with pytest.raises(ParamsError) as caught:
        PrefixAffinityConfig(**options)
    assert caught.value.field in options
