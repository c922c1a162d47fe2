"""The sampler against textbook definitions in float64, transformers' logits warpers, and chi-square."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.params import SamplingParams
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence
from steelyard.engine import sampling
from steelyard.engine.logits import likeliest
from steelyard.engine.sampling import (
    Candidates,
    Sampler,
    choose_filter,
    draw,
    filter_large_top_k,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    random_bits,
    validate_against_vocab,
)

NAN, INF = float("nan"), float("inf")
CLOSE = 1e-9  # a threshold nearer than this may fall either way in float64


def sequence(seed=0, prompt=(1, 2), output=(), id=0, **params) -> Sequence:
    made = Sequence(
        id=id, request_id=f"r{id}", index=0, prompt=prompt, params=SamplingParams(**params), seed=seed, arrival_s=0.0
    )
    made.tokens.extend(output)
    return made


def distribution(logits: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """What the sampler's filters leave, as ``[rows, vocab]`` float64 probabilities."""
    found = []
    for row, row_params in zip(logits, params, strict=True):
        candidates = choose_filter(row_params, len(row))(row[None], likeliest(row[None])[0], [row_params])
        spread = candidates.weights[0]
        if candidates.ids is not None:
            spread = torch.zeros(len(row), dtype=torch.int64).index_add_(0, candidates.ids[0], spread)
        found.append(spread.double() / spread.sum())
    return torch.stack(found)


def textbook(row: list[float], params: SamplingParams) -> tuple[list[float], float]:
    """Probabilities after temperature, min_p, top_k and top_p, by definition, and how close a call it was."""
    peak = max(row)
    mass = [math.exp((x - peak) / params.temperature) for x in row]
    margins = [abs(m - params.min_p) for m in mass if m < 1]
    mass = [m if m >= params.min_p else 0.0 for m in mass]
    if params.top_k is not None and params.top_k < len(row):
        floor = sorted(row)[-params.top_k]
        mass = [m if x >= floor else 0.0 for m, x in zip(mass, row, strict=True)]
    before, total, kept = 0.0, sum(mass), [0.0] * len(row)
    for token in sorted(range(len(row)), key=lambda t: (-row[t], t)):
        share = before / total
        if params.top_p < 1.0 and share > 0.0:
            margins.append(abs(share - params.top_p))
        if params.top_p == 1.0 or share < params.top_p:
            kept[token] = mass[token]
        before += mass[token]
    return [m / sum(kept) for m in kept], min(margins, default=1.0)


def chi_square_is_plausible(counts: list[int], probabilities: list[float]) -> bool:
    """Whether counts could come from the probabilities: within about four standard deviations of the mean."""
    num_draws = sum(counts)
    assert all(p > 0 or c == 0 for c, p in zip(counts, probabilities, strict=True)), "an impossible token was drawn"
    cells = [(c, p * num_draws) for c, p in zip(counts, probabilities, strict=True) if p > 0]
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    return statistic < freedom + 4 * math.sqrt(2 * freedom) + 8


FILTERS = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.05, 0.5, 1.0, 1.7, 50.0])},
    optional={
        "top_k": st.integers(1, 14),
        "top_p": st.floats(0.01, 1.0),
        "min_p": st.one_of(st.floats(0.0, 1.0), st.just(1.0)),
    },
)
ROW = st.lists(
    st.one_of(st.floats(-12, 12, width=32), st.sampled_from([-INF, -1.0, 0.0, 3.0])), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=400)
@given(row=ROW.filter(lambda row: max(row) > -INF), params=FILTERS)
def test_filters_leave_the_textbook_distribution(row, params):
    made = SamplingParams(**params)
    probabilities, margin = textbook(row, made)
    assume(margin > CLOSE)
    expected = torch.tensor(probabilities, dtype=torch.float64)
    found = distribution(torch.tensor([row]), [made])[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    sure = expected > 1e-11  # below that a token may weigh nothing: the resolution of the integers
    assert bool((found[sure] > 0).all())
    assert bool((found[expected == 0] == 0).all())


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
def test_top_p_over_a_large_vocabulary_equals_a_full_sort(scale, top_p):
    row = torch.randn(49152, generator=torch.Generator().manual_seed(5)) * scale
    found = distribution(row[None], [SamplingParams(top_p=top_p)])[0]
    order = row.sort(descending=True, stable=True).indices
    mass = row.double().softmax(0)[order]
    kept = order[mass.cumsum(0) - mass < top_p]
    assert set(kept.tolist()) == set(found.nonzero()[:, 0].tolist())
    torch.testing.assert_close(found[kept], mass[: len(kept)] / mass[: len(kept)].sum(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 5, 40])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02])
@pytest.mark.parametrize("temperature", [0.6, 1.4])
def test_filters_agree_with_transformers(top_k, top_p, min_p, temperature):
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(6)) * 3
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    if min_p:
        theirs = MinPLogitsWarper(min_p)(None, theirs)
    theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1.0:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    found = distribution(logits, [params] * 6)
    assert torch.equal(found > 0, theirs > -INF)
    torch.testing.assert_close(found, theirs.softmax(-1).double(), rtol=1e-5, atol=1e-7)


def test_large_top_k_equals_the_small_path():
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(7)) * 2
    params = [SamplingParams(top_k=k, top_p=0.97) for k in (1025, 1500, 2999)]
    assert choose_filter(params[0], 3000) is filter_large_top_k
    small, large = (f(logits, logits.amax(-1), params) for f in (filter_top_k, filter_large_top_k))
    assert torch.equal(small.weights, large.weights)
    assert torch.equal(small.ids, large.ids)


def test_the_filter_is_chosen_by_the_row_alone():
    assert choose_filter(SamplingParams(), 100) is filter_min_p
    assert choose_filter(SamplingParams(top_k=100), 100) is filter_min_p
    assert choose_filter(SamplingParams(top_k=99, top_p=0.5), 100) is filter_top_k
    assert choose_filter(SamplingParams(top_p=0.5, min_p=0.1), 100) is filter_top_p


# -- randomness --


def test_random_bits_are_uniform_over_positions_and_over_seeds():
    cells = 32
    streams = [[random_bits(seed, i) for i in range(8000)] for seed in (0, 1, -1, 2**64 - 2)]
    streams.append([random_bits(seed, 0) for seed in range(8000)])
    for stream in streams:
        for shift in (59, 0):  # the high bits and the low ones
            counts = [0] * cells
            for bits in stream:
                counts[(bits >> shift) % cells] += 1
            assert chi_square_is_plausible(counts, [1 / cells] * cells)


def test_neighbouring_positions_and_seeds_are_independent():
    for next_seed, next_position in ((0, 1), (1, 0), (1, 1)):
        counts = [0] * 64
        for seed in range(80):
            for i in range(100):
                pair = random_bits(seed, i) >> 61, random_bits(seed + next_seed, i + next_position) >> 61
                counts[pair[0] * 8 + pair[1]] += 1
        assert chi_square_is_plausible(counts, [1 / 64] * 64)


def test_random_bits_are_pinned():
    # A change here would change every seeded completion.
    assert [random_bits(42, i) for i in range(3)] == [random_bits(42 - 2**64, i) for i in range(3)]
    assert random_bits(42, 0) == 4135827642833375482


def test_draw_inverts_the_cumulative_distribution_exactly():
    candidates = Candidates(torch.tensor([[3, 0, 1]] * 5), None)
    randoms = [0, (3 << 62) - 1, 3 << 62, (1 << 64) - 1, 1 << 63]
    assert draw(candidates, randoms) == [0, 0, 2, 2, 0]
    ids = torch.tensor([[9, 8, 7]])
    assert draw(Candidates(torch.tensor([[0, 1 << 61, 1 << 61]]), ids), [(1 << 63) - 1]) == [8]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"top_k": 4, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.5, "logit_bias": {0: 1.0}},
    ],
)
@pytest.mark.parametrize("over", ["seeds", "positions"])
def test_drawn_tokens_have_the_textbook_frequencies(params, over):
    num_draws, row = 4000, [1.0, 0.2, -0.5, 1.5, 0.0, -2.0]
    if over == "seeds":
        sequences = [sequence(seed=seed, id=seed, **params) for seed in range(num_draws)]
    else:
        sequences = [sequence(seed=7, output=(2,) * i, id=i, **params) for i in range(num_draws)]
    drawn = [t.token_id for t in Sampler().sample(torch.tensor([row] * num_draws), sequences)]
    adjusted = list(row)
    if "logit_bias" in params:  # the prompt is tokens 1 and 2; the output holds nothing else
        adjusted[0] += 1.0
        adjusted[1], adjusted[2] = adjusted[1] / 1.5, adjusted[2] * 1.5
    expected, _ = textbook(adjusted, SamplingParams(**params))
    assert chi_square_is_plausible([drawn.count(token) for token in range(6)], expected)


# -- the sampler --


def mixed_batch(vocab: int) -> tuple[torch.Tensor, list[Sequence]]:
    """Rows of every kind: greedy, plain, filtered, penalised, biased, with logprobs."""
    kinds = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.0, "frequency_penalty": 1.0, "logprobs": 3},
        {"top_p": 0.9},
        {"top_k": 20},
        {"top_k": vocab - 3, "top_p": 0.8},
        {"min_p": 0.1, "temperature": 3.0},
        {"top_p": 0.5, "min_p": 0.01, "repetition_penalty": 1.3, "logprobs": 0},
        {"top_k": 7, "logit_bias": {5: 4.0, 6: -100.0}, "presence_penalty": 0.5, "logprobs": 20},
        {"min_tokens": 9, "stop_token_ids": (3,), "temperature": 1.5},
        {"temperature": 1e-300},
    ]
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(2 * len(kinds), vocab, generator=generator) * 4
    sequences = [
        sequence(seed=100 + i, prompt=(i, i + 1), output=(4, 4, 9)[: i % 4], id=i, **kinds[i % len(kinds)])
        for i in range(len(logits))
    ]
    return logits, sequences


@pytest.mark.parametrize("vocab", [64, 1003, 2500])
def test_a_row_does_not_depend_on_its_neighbours(vocab, monkeypatch):
    logits, sequences = mixed_batch(vocab)
    sampler = Sampler([2])
    together = sampler.sample(logits, sequences)
    alone = [sampler.sample(row[None], [s])[0] for row, s in zip(logits, sequences, strict=True)]
    assert together == alone
    backwards = sampler.sample(logits.flip(0), sequences[::-1])
    assert together == backwards[::-1]
    monkeypatch.setattr(sampling, "CHUNK_LOGITS", 3 * vocab)
    assert together == sampler.sample(logits, sequences)


def test_sampling_changes_neither_logits_nor_sequences_and_repeats_itself():
    logits, sequences = mixed_batch(64)
    before, tokens = logits.clone(), [list(s.tokens) for s in sequences]
    first = Sampler([2]).sample(logits, sequences)
    assert torch.equal(logits, before)
    assert [s.tokens for s in sequences] == tokens
    assert first == Sampler([2]).sample(logits, sequences)


def test_a_completion_depends_on_its_seed_and_not_on_when_it_ran():
    generator = torch.Generator().manual_seed(9)
    steps = torch.randn(12, 200, generator=generator)

    def complete(seed: int, sampler: Sampler) -> list[int]:
        seq = sequence(seed=seed, repetition_penalty=1.1, top_p=0.95)
        for row in steps:
            seq.tokens.append(sampler.sample(row[None], [seq])[0].token_id)
        return seq.output

    used = Sampler()
    complete(5, used)
    assert complete(1, used) == complete(1, Sampler())
    assert complete(1, used) != complete(2, used)
    resumed = sequence(seed=1, output=complete(1, Sampler())[:7], repetition_penalty=1.1, top_p=0.95)
    assert Sampler().sample(steps[7][None], [resumed])[0].token_id == complete(1, used)[7]


def test_greedy_takes_the_lowest_id_among_equals():
    logits = torch.zeros(2, 49153)
    logits[1, [700, 40000]] = 2.0
    sequences = [sequence(id=i, temperature=0.0) for i in range(2)]
    assert Sampler().sample(logits, sequences) == [SampledToken(0), SampledToken(700)]


@pytest.mark.parametrize(
    ("params", "alone"),
    [
        ({}, True),
        ({"ignore_eos": True, "min_tokens": 3}, True),
        ({"min_tokens": 3}, False),
        ({"temperature": 0.5}, False),
        ({"logprobs": 0}, False),
        ({"presence_penalty": 0.5}, False),
        ({"logit_bias": {1: 2.0}}, False),
        ({"constraint": Constraint.regex("a")}, False),
    ],
)
def test_a_greedy_choice_that_nothing_touches_needs_only_the_likeliest(params, alone):
    asked, sampler = sequence(**({"temperature": 0.0} | params)), Sampler(eos_token_ids=[3])
    assert sampler.wants_only_likeliest(asked) is alone
    if alone:
        logits = torch.randn(1, 10)
        assert sampler.take_likeliest(*logits.max(-1), [asked]) == sampler.sample(logits, [asked])


def test_a_likeliest_that_is_no_number_raises():
    with pytest.raises(ResourceError, match="NaN or infinite"):
        Sampler().take_likeliest(torch.tensor([1.0, NAN]), torch.tensor([0, 0]), [sequence(), sequence()])


def test_no_rows_no_tokens():
    assert Sampler().sample(torch.zeros(0, 10), []) == []


def test_bias_of_a_hundred_forces_and_forbids():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(10)) * 3
    forced = [sequence(seed=i, id=i, logit_bias={13: 100.0}) for i in range(50)]
    assert {t.token_id for t in Sampler().sample(logits, forced)} == {13}
    forbidden = [sequence(seed=i, id=i, logit_bias=dict.fromkeys(range(19), -100.0)) for i in range(50)]
    assert {t.token_id for t in Sampler().sample(logits, forbidden)} == {19}


def test_min_tokens_forbids_ending_tokens_until_then():
    logits = torch.full((1, 6), -5.0)
    logits[0, 2], logits[0, 3], logits[0, 4] = 9.0, 8.0, 1.0
    params = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (3,)}

    def greedy(num_output: int, **more: object) -> int:
        return Sampler([2]).sample(logits, [sequence(output=(0,) * num_output, **params, **more)])[0].token_id

    assert [greedy(0), greedy(1), greedy(2)] == [4, 4, 2]
    assert greedy(0, ignore_eos=True) == 2


def test_suppressed_tokens_are_never_chosen():
    logits = torch.zeros(40, 6)
    sequences = [sequence(seed=i, id=i, temperature=float(i % 2)) for i in range(40)]
    everywhere = torch.tensor([True, True, False, True, False, True])
    free = Sampler().sample(logits, sequences)
    some = Sampler().sample(logits, sequences, dict.fromkeys(range(0, 40, 3), everywhere))
    assert {token.token_id for token in some[::3]} == {2, 4}
    assert [t for i, t in enumerate(some) if i % 3] == [t for i, t in enumerate(free) if i % 3]
    per_row = {i: torch.arange(6) != i % 6 for i in range(40)}
    assert [t.token_id for t in Sampler().sample(logits, sequences, per_row)] == [i % 6 for i in range(40)]
    with pytest.raises(ParamsError, match="every token is forbidden"):
        Sampler().sample(logits, sequences, {7: torch.ones(6, dtype=torch.bool)})


def test_min_tokens_yields_where_a_constraint_leaves_nothing_else():
    logits = torch.tensor([[0.0, 1.0, 9.0, 8.0, 2.0, 3.0]])
    seq = [sequence(temperature=0.0, min_tokens=5, stop_token_ids=(3,))]

    def best(*allowed: int) -> int:
        mask = torch.ones(6, dtype=torch.bool)
        mask[list(allowed)] = False
        return Sampler([2]).sample(logits, seq, {0: mask})[0].token_id

    assert [best(2, 3), best(3), best(2), best(1, 2, 3)] == [2, 3, 2, 1]


def test_under_a_constraint_min_tokens_forbids_the_end_even_if_ends_are_ignored():
    logits = torch.tensor([[0.0, 1.0, 9.0]])
    params = {"temperature": 0.0, "min_tokens": 5, "ignore_eos": True}
    constrained = sequence(**params, constraint=Constraint.json_object())
    assert Sampler([2]).sample(logits, [sequence(**params)])[0].token_id == 2
    assert Sampler([2]).sample(logits, [constrained])[0].token_id == 1


def test_logprobs_are_of_the_raw_logits():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    token = Sampler().sample(logits, [sequence(temperature=0.0, logit_bias={2: 50.0}, logprobs=2)])[0]
    raw = logits[0].double().log_softmax(0)
    assert (token.token_id, token.logprob.rank) == (2, 3)
    assert token.logprob.logprob == pytest.approx(raw[2].item(), abs=1e-8)
    assert [(t.token_id, t.rank) for t in token.top_logprobs] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("broken", [[NAN, 0.0], [INF, 0.0], [-INF, -INF]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_raise(broken, temperature):
    sequences = [sequence(id=0, temperature=temperature), sequence(id=1, temperature=temperature)]
    with pytest.raises(ResourceError, match="NaN or infinite logits for r1"):
        Sampler().sample(torch.tensor([[0.0, -INF], broken]), sequences)


def test_validate_against_vocab():
    validate_against_vocab(SamplingParams(logit_bias={99: 1.0}, stop_token_ids=(0, 99), top_k=500), 100)
    for field, params in (("logit_bias", {"logit_bias": {100: 1.0}}), ("stop_token_ids", {"stop_token_ids": (5, 100)})):
        with pytest.raises(ParamsError, match="token 100 is outside") as caught:
            validate_against_vocab(SamplingParams(**params), 100)
        assert caught.value.field == field
    everything = SamplingParams(min_tokens=1, stop_token_ids=(0, 1))
    validate_against_vocab(everything, 3)
    with pytest.raises(ParamsError, match="forbids every token"):
        validate_against_vocab(everything, 2)
