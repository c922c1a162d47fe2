"""Seconds of a training step: published throughputs, the bubble's formula, and what never makes it slower."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.plan.training import LinkTier, Recompute, TrainingCluster, TrainingEfficiency, TrainingLayout
from steelyard.plan.training_catalogue import find_training_cluster, find_training_model
from steelyard.plan.training_step import training_step

CLUSTER, EFFICIENCY = find_training_cluster("dgx-a100")
MODEL = find_training_model("gpt-7.5b")


def step(layout, *, cluster=CLUSTER, efficiency=EFFICIENCY, batch=64):
    return training_step(MODEL, layout, cluster, efficiency, global_batch=batch)


@pytest.mark.parametrize(("pp", "chunks", "batch"), [(4, 1, 16), (4, 3, 16), (12, 1, 24), (12, 3, 48)])
def test_the_bubble_is_the_formulas_share_of_the_stages_work(pp, chunks, batch):
    """(p - 1) / (v·m) of the time that a stage is busy, the output layer aside (arXiv:2104.04473, section 2.2)."""
    model = replace(MODEL, vocab_size=8)
    layout = TrainingLayout(pp=pp, interleave=chunks)
    done = training_step(model, layout, CLUSTER, EFFICIENCY, global_batch=batch)
    busy = done.compute_s + done.elementwise_s + done.tp_s + done.pp_s
    assert done.bubble_s / busy == pytest.approx((pp - 1) / (chunks * batch), rel=0.01)


def test_one_device_sends_nothing():
    done = step(TrainingLayout())
    assert (done.tp_s, done.pp_s, done.bubble_s, done.dp_s) == (0, 0, 0, 0)
    assert done.seconds == done.compute_s + done.elementwise_s + done.optimiser_s


def test_full_recomputation_computes_a_third_more():
    none, full = (step(TrainingLayout(recompute=one)).compute_s for one in (Recompute.NONE, Recompute.FULL))
    assert 1.25 < full / none < 4 / 3


def test_interleaving_trades_the_bubble_for_sending():
    plain, chunks = step(TrainingLayout(pp=12)), step(TrainingLayout(pp=12, interleave=3))
    assert chunks.bubble_s < plain.bubble_s / 2
    assert chunks.pp_s == pytest.approx(3 * plain.pp_s)


def test_tensor_parallelism_across_nodes_is_slow():
    inside, across = step(TrainingLayout(tp=8)).tp_s, step(TrainingLayout(tp=16)).tp_s
    assert across > 5 * inside


def test_zero_three_gathers_for_every_microbatch():
    layout = TrainingLayout(dp=64, zero_stage=3)
    once, twice = step(layout, batch=64), step(layout, batch=128)
    assert once.dp_s > 0
    assert twice.dp_s == pytest.approx(2 * once.dp_s)


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    dp=st.sampled_from([1, 2, 16]),
    zero=st.integers(0, 3),
    faster=st.floats(1, 10),
    rate=st.sampled_from(["flop_per_s", "memory_bytes_per_s", "network_bytes_per_s"]),
)
def test_a_faster_cluster_is_never_slower(tp, pp, dp, zero, faster, rate):
    layout = TrainingLayout(tp=tp, pp=pp, dp=dp, zero_stage=zero)
    better = replace(CLUSTER, **{rate: getattr(CLUSTER, rate) * faster})
    assert step(layout, cluster=better).seconds <= step(layout).seconds * (1 + 1e-12)


@given(name=st.sampled_from(["gemm", "memory", "link", "network", "gather"]), share=st.floats(0.1, 1))
def test_less_efficiency_is_never_faster(name, share):
    layout = TrainingLayout(tp=4, pp=2, dp=2)
    worse = replace(EFFICIENCY, **{name: getattr(EFFICIENCY, name) * share})
    assert step(layout, efficiency=worse).seconds >= step(layout).seconds * (1 - 1e-12)


@given(batch=st.integers(1, 64))
def test_larger_batches_take_longer_but_waste_less(batch):
    layout = TrainingLayout(pp=4)
    small, large = step(layout, batch=batch), step(layout, batch=2 * batch)
    assert small.seconds < large.seconds < 2 * small.seconds


def test_step_flop_is_the_papers_formula():
    model = find_training_model("gpt-1t")
    s, h, layers, vocab, batch = 2048, 25600, 128, 51200, 3072
    formula = 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))
    assert model.step_flop(batch) == pytest.approx(formula)
    assert model.model_flop(batch) < model.step_flop(batch)


def test_num_params_are_those_of_the_table():
    for name, billions in (("gpt-1.7b", 1.7), ("gpt-39b", 39.1), ("gpt-175b", 174.6), ("gpt-1t", 1008.0)):
        assert find_training_model(name).num_params / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TrainingLayout(tp=0), "tp"),
        (lambda: TrainingLayout(zero_stage=4), "zero_stage"),
        (lambda: replace(MODEL, hidden_size=-1), "hidden_size"),
        (lambda: replace(CLUSTER, flop_per_s=0.0), "flop_per_s"),
        (lambda: replace(CLUSTER, links=()), "links"),
        (lambda: replace(CLUSTER, links=(LinkTier(max_ranks=8, bytes_per_s=1),) * 2), "links"),
        (lambda: LinkTier(max_ranks=0, bytes_per_s=1.0), "max_ranks"),
        (lambda: replace(EFFICIENCY, gemm=1.5), "gemm"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(make, field):
    with pytest.raises(ParamsError) as caught:
        make()
    assert caught.value.field == field


def test_types_are_what_the_catalogue_gives():
    assert isinstance(CLUSTER, TrainingCluster)
    assert isinstance(EFFICIENCY, TrainingEfficiency)
    assert CLUSTER.gpus_per_node == 8
