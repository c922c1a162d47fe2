"""Bytes of a training run: the published activation memory to the bit, and what grows with what."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.training import Recompute, TrainingLayout, TrainingModel
from steelyard.plan.training_catalogue import find_training_model
from steelyard.plan.training_memory import layer_activation_bytes, params_per_gpu, training_memory
from steelyard.reproduce.s43 import sequence_parallel_gib, sequence_parallel_layout
from steelyard.reproduce.tables import read_table

ROWS = read_table("s43_seqpar")
GPT = TrainingModel(name="small", num_layers=8, hidden_size=512, num_heads=8, sequence_tokens=256, vocab_size=1024)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
@pytest.mark.parametrize("recompute", [Recompute.NONE, Recompute.SELECTIVE])
def test_activations_are_those_published(row, recompute):
    assert sequence_parallel_gib(row, recompute) == pytest.approx(float(row[f"{recompute.value}_gib"]), rel=1e-9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_shares_of_activations_are_those_published(row):
    model = find_training_model(row["model"])
    none = sequence_parallel_layout(row, Recompute.NONE)
    whole = layer_activation_bytes(model, none, Recompute.NONE)
    split = layer_activation_bytes(model, replace(none, sequence_parallel=True), Recompute.NONE)
    full = layer_activation_bytes(model, none, Recompute.FULL)
    assert 100 * split / whole == pytest.approx(float(row["sequence_pct"]), abs=0.1)
    assert 100 * full / whole == pytest.approx(float(row["full_pct"]), rel=0.012)  # read off a figure


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["model"])
def test_weights_and_states_are_those_published_without_the_embedding(row):
    """The paper counts 18 bytes for each weight of the layers' matrices."""
    model = find_training_model(row["model"])
    layers = model.num_layers * model.num_layer_params / (int(row["tp"]) * int(row["pp"]))
    assert 18 * layers / 2**30 == pytest.approx(float(row["states_gib"]), rel=1e-6)
    memory = training_memory(model, sequence_parallel_layout(row, Recompute.FULL), num_microbatches=64)
    held = memory.weights + memory.gradients + memory.optimiser
    assert held == pytest.approx(18 * params_per_gpu(model, sequence_parallel_layout(row, Recompute.FULL)))


def test_zero_stages_shard_one_thing_after_another():
    of = [training_memory(GPT, TrainingLayout(dp=4, zero_stage=stage), num_microbatches=1) for stage in range(4)]
    assert of[1].optimiser == of[0].optimiser / 4
    assert of[1].gradients == of[0].gradients
    assert of[2].gradients == of[0].gradients / 4
    assert of[2].weights == of[0].weights
    assert of[3].weights == of[0].weights / 4


def test_flash_attention_keeps_no_scores():
    plain = TrainingLayout(recompute=Recompute.NONE)
    flash = replace(plain, flash_attention=True)
    assert layer_activation_bytes(GPT, flash, Recompute.NONE) == layer_activation_bytes(GPT, plain, Recompute.SELECTIVE)


@given(tp=st.sampled_from([1, 2, 4]), pp=st.sampled_from([1, 2, 4]), microbatch=st.integers(1, 8))
def test_more_recomputation_and_more_ranks_never_need_more(tp, pp, microbatch):
    def total(recompute, layout):
        return training_memory(GPT, replace(layout, recompute=recompute), num_microbatches=8).total

    layout = TrainingLayout(tp=tp, pp=pp, microbatch=microbatch)
    assert total(Recompute.SELECTIVE, layout) <= total(Recompute.NONE, layout)
    assert total(Recompute.NONE, replace(layout, tp=2 * tp)) <= total(Recompute.NONE, layout)
    assert total(Recompute.NONE, replace(layout, sequence_parallel=True)) <= total(Recompute.NONE, layout)


def test_interleaving_keeps_more_in_flight():
    layout = TrainingLayout(pp=4)
    plain, chunks = (
        training_memory(GPT, replace(layout, interleave=v), num_microbatches=16).activations for v in (1, 2)
    )
    assert chunks > plain


def test_few_microbatches_are_all_that_is_in_flight():
    layout = TrainingLayout(pp=4, recompute=Recompute.NONE)
    one, two, many = (training_memory(GPT, layout, num_microbatches=count).activations for count in (1, 2, 4))
    assert two == pytest.approx(2 * one)
    assert many == pytest.approx(4 * one)
