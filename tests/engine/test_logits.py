"""Biases, bans and penalties against plain loops and transformers; integer weights against float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.engine.logits import (
    LogitsAdjuster,
    check_choice_left,
    check_model_output,
    kth_largest,
    likeliest,
    rank_kept,
    weigh,
    weight_bits,
)

INF = float("inf")
VOCAB = 11


def sequence(id=0, prompt=(1, 2), output=(), **params) -> Sequence:
    made = Sequence(
        id=id, request_id=f"r{id}", index=0, prompt=prompt, params=SamplingParams(**params), seed=id, arrival_s=0.0
    )
    made.tokens.extend(output)
    return made


def reference(row: list[float], seq: Sequence, eos: tuple[int, ...], suppressed: set[int]) -> list[float]:
    """The adjustments in the order of the docstring, token by token, in float64."""
    params, adjusted = seq.params, []
    ending = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))
    banned = ending if seq.num_output_tokens < params.min_tokens else set()
    if suppressed and suppressed | banned == set(range(VOCAB)):
        banned = set()
    for token, logit in enumerate(row):
        x = logit + params.logit_bias.get(token, 0.0)
        if token in banned | suppressed:
            x = -INF
        if token in seq.tokens:
            x = x / params.repetition_penalty if x > 0 else x * params.repetition_penalty
        x -= params.frequency_penalty * seq.output.count(token)
        x -= params.presence_penalty * (token in seq.output)
        adjusted.append(x)
    return adjusted


PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "min_tokens": st.integers(0, 6),
        "stop_token_ids": st.lists(st.integers(0, VOCAB - 1), max_size=4).map(tuple),
        "ignore_eos": st.booleans(),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=4),
        "repetition_penalty": st.floats(0.1, 3.0),
        "frequency_penalty": st.floats(-2, 2),
        "presence_penalty": st.floats(-2, 2),
    },
)
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6).map(tuple)
ROW = st.lists(st.floats(-20, 20, width=32), min_size=VOCAB, max_size=VOCAB)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(ROW, TOKENS, TOKENS, PARAMS), min_size=1, max_size=4),
    suppressed=st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=VOCAB - 1)),
)
def test_adjusted_logits_follow_the_plain_definition(rows, suppressed):
    sequences = [sequence(i, prompt, output, **params) for i, (_, prompt, output, params) in enumerate(rows)]
    logits = torch.tensor([row for row, *_ in rows], dtype=torch.float32)
    before = logits.clone()
    suppressed = {row: tokens for row, tokens in suppressed.items() if row < len(rows)}
    masks = {row: torch.tensor([i in tokens for i in range(VOCAB)]) for row, tokens in suppressed.items()}
    adjusted = LogitsAdjuster([3, 4, 999])(logits, sequences, masks)
    expected = [
        reference(row, seq, (3, 4), suppressed.get(i, set()))
        for i, (row, seq) in enumerate(zip(before.tolist(), sequences, strict=True))
    ]
    torch.testing.assert_close(adjusted, torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-4)
    assert torch.equal(logits, before), "the raw logits were changed"


def test_nothing_to_adjust_copies_nothing():
    logits = torch.zeros(2, VOCAB)
    sequences = [sequence(0), sequence(1, temperature=0.0, min_tokens=1, output=(1,))]
    assert LogitsAdjuster([3])(logits, sequences) is logits


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_agrees_with_transformers(penalty):
    torch.manual_seed(0)
    logits = torch.randn(3, VOCAB) * 4
    sequences = [sequence(i, (1, 1, 5), (7, i), repetition_penalty=penalty) for i in range(3)]
    adjusted = LogitsAdjuster()(logits, sequences)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([s.tokens for s in sequences]), logits.clone())
    assert torch.equal(adjusted, theirs)


def test_penalties_kept_from_step_to_step_equal_those_counted_afresh():
    generator = torch.Generator().manual_seed(1)
    penalties = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": -0.4}
    sequences = [sequence(i, (i, i + 1), **penalties) for i in range(3)]
    kept = LogitsAdjuster()
    for step in range(30):
        present = [s for s in sequences if (step + s.id) % 5]  # now and then one is missing, as if preempted
        logits = torch.randn(len(present), VOCAB, generator=generator)
        assert torch.equal(kept(logits, present), LogitsAdjuster()(logits, present))
        for s in present:
            new = torch.randint(VOCAB, (1 + step % 2,), generator=generator)  # sometimes two tokens in a step
            s.tokens.extend(new.tolist())


def test_an_id_used_again_for_another_sequence_starts_afresh():
    adjust, logits = LogitsAdjuster(), torch.ones(1, VOCAB)
    adjust(logits, [sequence(0, (1,), (2, 2), presence_penalty=1.0)])
    adjusted = adjust(logits, [sequence(0, (1,), (5,), presence_penalty=1.0)])
    assert adjusted[0].tolist() == [0.0 if token == 5 else 1.0 for token in range(VOCAB)]


def test_a_tiny_repetition_penalty_does_not_overflow_to_infinity():
    adjusted = LogitsAdjuster()(torch.ones(1, VOCAB), [sequence(repetition_penalty=1e-45, presence_penalty=1.0)])
    assert bool(torch.isfinite(adjusted).all())
    assert adjusted.argmax().item() in (1, 2)


def test_likeliest_takes_the_lowest_id_among_equals_and_shows_nan():
    logits = torch.zeros(3, 49153)
    logits[0, [77, 5000, 49152]] = 1.0
    logits[2, 40000] = float("nan")
    peaks, tokens = likeliest(logits)
    assert tokens[:2].tolist() == [77, 0]
    assert peaks[:2].tolist() == [1.0, 0.0]
    assert math.isnan(peaks[2].item())


@pytest.mark.parametrize("row", [[0.0, float("nan")], [0.0, INF], [-INF, -INF]])
def test_unusable_logits_name_request_and_remedy(row):
    peaks, _ = likeliest(torch.tensor([[0.0, -INF], row]))
    with pytest.raises(ResourceError) as caught:
        check_model_output(peaks, ["fine", "broken"])
    assert "broken" in caught.value.problem
    assert "fine" not in caught.value.problem
    assert "float16" in caught.value.problem
    assert "float32" in caught.value.remedy


def test_all_tokens_forbidden_is_an_error_of_parameters():
    check_choice_left(torch.tensor([0.0]), ["a"])
    with pytest.raises(ParamsError, match="every token is forbidden for b"):
        check_choice_left(torch.tensor([0.0, -INF]), ["a", "b"])


@pytest.mark.parametrize("vocab", [2, 32000, 49152, 262144, 1 << 20])
def test_a_whole_vocabulary_of_weights_stays_in_range(vocab):
    bits = weight_bits(vocab)
    assert vocab << bits <= 1 << 62
    assert bits >= 41
    total = weigh(torch.zeros(1, vocab), torch.zeros(1), torch.ones(1).double(), bits).sum()
    assert total.item() == vocab << bits


@settings(deadline=None)
@given(row=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20), temperature=st.floats(0.01, 100))
def test_weights_are_probabilities_to_fine_resolution(row, temperature):
    logits = torch.tensor([row])
    bits = weight_bits(50_000)
    weights = weigh(logits, logits.amax(-1), torch.tensor([temperature], dtype=torch.float64), bits)[0]
    exact = (logits[0].double() / temperature).softmax(0)
    torch.testing.assert_close(weights.double() / weights.sum(), exact, rtol=1e-9, atol=1e-12)


def test_weights_do_not_depend_on_where_a_row_stands():
    generator = torch.Generator().manual_seed(2)
    row = torch.randn(1, 997, generator=generator) * 5
    temperature = torch.tensor([0.7], dtype=torch.float64)
    alone = weigh(row, row.amax(-1), temperature, 46)
    for above in (1, 2, 3, 40):
        batch = torch.cat([torch.randn(above, 997, generator=generator), row])
        assert torch.equal(weigh(batch, batch.amax(-1), temperature.expand(above + 1), 46)[-1:], alone)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), rows=st.integers(1, 4))
def test_rank_kept_and_kth_largest_against_sorted_lists(data, rows):
    few = st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0])
    logits = torch.tensor([data.draw(st.lists(few, min_size=6, max_size=6)) for _ in range(rows)])
    ks = [data.draw(st.integers(1, 6)) for _ in range(rows)]
    floors = kth_largest(logits, ks)
    assert floors[:, 0].tolist() == [
        sorted(row, reverse=True)[k - 1] for row, k in zip(logits.tolist(), ks, strict=True)
    ]
    kept, ids = rank_kept(logits, logits >= floors)
    for row, floor, values, tokens in zip(logits.tolist(), floors[:, 0].tolist(), kept, ids, strict=True):
        expected = sorted((-x, token) for token, x in enumerate(row) if x >= floor)
        assert tokens[: len(expected)].tolist() == [token for _, token in expected]
        assert values[: len(expected)].tolist() == [-x for x, _ in expected]
        assert bool((values[len(expected) :] == -INF).all())
