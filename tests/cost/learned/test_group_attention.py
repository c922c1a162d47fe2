"""Attention adds up to one, stays within its group, and the network learns what depends on a group."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from steelyard.core.errors import InputError
from steelyard.cost.learned.group_attention import GroupAttention, GroupAttentionConfig, train_score_predictor
from steelyard.cost.learned.perfcast import CHARACTERISTICS, BenchmarkRun
from steelyard.cost.learned.server import STREAM_TRIAD, with_predicted_bandwidth
from steelyard.cost.roofline import ModelShape, StepShape, step_cost
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate

CONFIG = GroupAttentionConfig(width=8, num_heads=2, num_epochs=60, dropout=0.0)
GROUPS = ("a", "a", "b", "b", "b")
NAMES = [characteristic.name for characteristic in CHARACTERISTICS]


def network() -> GroupAttention:
    torch.manual_seed(0)
    return GroupAttention((0, 3, 0, 0, 2), GROUPS, CONFIG).eval()


def codes(rows: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(rows, 5, generator=generator)
    found[:, 1] = torch.randint(0, 4, (rows,), generator=generator)
    found[:, 4] = torch.randint(0, 3, (rows,), generator=generator)
    return found


def test_shares_add_up_to_one():
    found = network()(codes())
    assert {name: shares.shape for name, shares in found.within.items()} == {"a": (6, 2), "b": (6, 3)}
    for shares in (*found.within.values(), found.between):
        assert torch.all(shares >= 0)
        assert torch.allclose(shares.sum(dim=-1), torch.ones(6))
    assert found.between.shape == (6, 2)


@pytest.mark.parametrize(("column", "own", "other"), [(0, "a", "b"), (1, "a", "b"), (3, "b", "a"), (4, "b", "a")])
def test_attention_within_a_group_sees_that_group_only(column, own, other):
    net, given = network(), codes()
    changed = given.clone()
    changed[:, column] = 1 + (changed[:, column] == 1)
    before, after = net(given), net(changed)
    assert torch.equal(before.within[other], after.within[other])
    assert not torch.equal(before.within[own], after.within[own])
    assert not torch.equal(before.outputs, after.outputs)


def test_a_run_does_not_depend_on_its_neighbours():
    net, given = network(), codes()
    assert torch.allclose(net(given).outputs[2:3], net(given[2:3]).outputs, atol=1e-6)


def runs(seed: int = 0, count: int = 60) -> tuple[BenchmarkRun, ...]:
    """Two tests whose scores grow with cores, and for one of them with memory's speed; three machines' worth each."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        test, cores, speed = ("x", "y")[number % 2], float(rng.choice([40, 48, 56])), float(rng.choice([3200, 4800]))
        values: list[float | str] = [1.0] * len(CHARACTERISTICS)
        for name in ("stepping", "population", "numa_balancing", "os", "workload", "preset"):
            values[NAMES.index(name)] = "same"
        values[NAMES.index("cores_per_socket")], values[NAMES.index("mega_transfers_per_s")] = cores, speed
        values[NAMES.index("test")] = test
        score = cores * 10 if test == "x" else 1e6 * speed
        found.append(BenchmarkRun(f"m{number}", test, tuple(values), score))
    return tuple(found)


def test_it_learns_what_each_test_depends_on():
    predictor = train_score_predictor(runs(), replace(CONFIG, num_epochs=200))
    more = runs(seed=5)
    errors = np.abs(predictor.predict(more) / [run.score for run in more] - 1)
    assert errors.mean() < 0.03


def test_the_same_seed_gives_the_same_predictor_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second = (train_score_predictor(runs(), CONFIG).predict(runs(1)) for _ in range(2))
    other = train_score_predictor(runs(), replace(CONFIG, seed=1)).predict(runs(1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_scores_of_held_out_runs_are_not_looked_at():
    predictor = train_score_predictor(runs(), CONFIG)
    blind = tuple(replace(run, score=1.0) for run in runs(1))
    assert np.array_equal(predictor.predict(blind), predictor.predict(runs(1)))


def test_too_few_runs_and_strange_tests_are_refused():
    with pytest.raises(InputError, match="too few"):
        train_score_predictor(runs(count=1), CONFIG)
    with pytest.raises(InputError, match="no training run"):
        train_score_predictor(runs(), CONFIG).predict((replace(runs()[0], test="z"),))


def test_a_predicted_bandwidth_is_what_the_cost_model_reads():
    class Triad:
        def predict(self, asked):
            (run,) = asked
            assert (run.test, run.values[NAMES.index("test")]) == (STREAM_TRIAD, STREAM_TRIAD)
            assert run.values[NAMES.index("cores_per_socket")] == server.values[NAMES.index("cores_per_socket")]
            return np.array([400_000.0])

    server = runs()[0]
    device = Device(
        name="Xeon",
        kind=DeviceKind.CPU,
        memory=(MemoryTier(name="DDR5", capacity_bytes=1 << 40),),
        peaks=(PeakRate(dtype="float32", flop_per_s=1e15),),
    )
    found = with_predicted_bandwidth(device, server, Triad())
    assert found.bandwidth_bytes_per_s == 400e9
    model = ModelShape(
        num_layer_params=10**9,
        hidden_size=64,
        vocab_size=100,
        num_heads=1,
        num_kv_heads=1,
        head_dim=64,
        windows=(None,),
    )
    assert step_cost(StepShape.of((1, 1)), model, found).linear.seconds == pytest.approx(4e9 / 400e9)
