"""Grammars are kept within bounds, and matchers follow their sequences whatever happens to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence as TokenSequence
from steelyard.engine.constraints import ConstraintFollower, GrammarStore, Matcher, check_constraint

CPU = torch.device("cpu")
VOCABULARY = 10


class Countdown:
    """A matcher of the texts 3 2 1, as tokens; token 9 is too much for it."""

    def __init__(self) -> None:
        self.expected, self.problem = 3, None

    @property
    def is_complete(self) -> bool:
        return self.expected == 0 and self.problem is None

    def consume(self, token_ids: Sequence[int]) -> None:
        for token in token_ids:
            if token != self.expected:
                self.problem = f"{token} is not {self.expected}"
            self.expected -= 1


class CountdownGrammar:
    def __init__(self) -> None:
        self.num_started = 0

    def start(self) -> Countdown:
        self.num_started += 1
        return Countdown()


class Backend:
    def __init__(self) -> None:
        self.compiled: list[Constraint] = []
        self.gate = threading.Event()
        self.gate.set()
        self.grammar = CountdownGrammar()

    def compile(self, constraint: Constraint) -> CountdownGrammar:
        assert self.gate.wait(10)
        self.compiled.append(constraint)
        if constraint.texts == ("bad",):
            raise ParamsError("it is bad", field="regex", remedy="Improve it")
        return self.grammar

    def forbidden(self, matchers: Sequence[Matcher]) -> NDArray[np.bool_]:
        return np.stack([np.arange(VOCABULARY) != matcher.expected for matcher in matchers])  # type: ignore[attr-defined]


def sequence(number: int, output: tuple[int, ...] = (), constrained: bool = True) -> TokenSequence:
    constraint = Constraint.regex("321") if constrained else None
    made = TokenSequence(
        id=number, request_id=str(number), index=0, prompt=(7, 7), params=SamplingParams(constraint=constraint),
        seed=0, arrival_s=0.0,
    )  # fmt: skip
    made.tokens.extend(output)
    return made


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def follower(backend: Backend) -> ConstraintFollower:
    return ConstraintFollower(GrammarStore(lambda: backend))


def allowed(follower: ConstraintFollower, *sequences: TokenSequence) -> dict[int, list[int]]:
    masks, failed = follower.look_ahead(sequences, CPU)
    assert not failed
    return {row: (~mask).nonzero()[:, 0].tolist() for row, mask in masks.items()}


def test_grammars_are_compiled_once_and_the_least_recently_used_is_forgotten(backend: Backend) -> None:
    store = GrammarStore(lambda: backend, capacity=2)
    one, two, three = (Constraint.regex(str(i)) for i in range(3))
    for constraint in (one, two, one, three, one, two):
        store.get(constraint)
    assert backend.compiled == [one, two, three, two]


def test_preparing_compiles_off_the_loop_and_gives_up_in_time(backend: Backend) -> None:
    async def scenario() -> None:
        store = GrammarStore(lambda: backend, limit_s=0.05)
        params = SamplingParams(constraint=Constraint.regex("a"))
        backend.gate.clear()
        with pytest.raises(ParamsError, match=r"regex: it was not compiled within 0\.05 s"):
            await store.prepare(params)
        backend.gate.set()
        await store.prepare(params)
        await store.prepare(SamplingParams())
        with pytest.raises(ParamsError, match="it is bad"):
            await store.prepare(SamplingParams(constraint=Constraint.regex("bad")))

    asyncio.run(scenario())
    assert Constraint.regex("a") in backend.compiled


def test_a_constraint_needs_grammars_and_is_compiled_when_checked(backend: Backend) -> None:
    params = SamplingParams(constraint=Constraint.regex("bad"))
    check_constraint(SamplingParams(), None)
    with pytest.raises(ParamsError, match="constraint: it needs a model with a tokenizer"):
        check_constraint(params, None)
    with pytest.raises(ParamsError, match="it is bad"):
        check_constraint(params, GrammarStore(lambda: backend))


def test_only_rows_with_a_constraint_are_masked(backend: Backend, follower: ConstraintFollower) -> None:
    sequences = [sequence(0, constrained=False), sequence(1), sequence(2, constrained=False), sequence(3, (3,))]
    assert allowed(follower, *sequences) == {1: [3], 3: [2]}
    assert allowed(follower, sequences[0]) == {}
    masks, _ = ConstraintFollower(GrammarStore(lambda: 1 / 0)).look_ahead([sequences[0]], CPU)
    assert masks == {}, "no backend is made for batches without constraints"


def test_the_last_token_is_marked(follower: ConstraintFollower) -> None:
    sequences = [sequence(0, (3, 2)), sequence(1, (3,)), sequence(2, constrained=False)]
    allowed(follower, *sequences)
    sampled = [SampledToken(1), SampledToken(2), SampledToken(1)]
    assert [token.completes for token in follower.note(sequences, sampled)] == [True, False, False]


def test_a_matcher_goes_on_from_step_to_step(backend: Backend, follower: ConstraintFollower) -> None:
    grown = sequence(0)
    for token in (3, 2, 1):
        assert allowed(follower, grown) == {0: [token]}
        follower.note([grown], [SampledToken(token)])
        grown.tokens.append(token)
    assert backend.grammar.num_started == 1


def test_a_sampled_token_that_was_thrown_away_is_forgotten(backend: Backend, follower: ConstraintFollower) -> None:
    grown = sequence(0)
    allowed(follower, grown)
    follower.note([grown], [SampledToken(3)])
    assert allowed(follower, grown) == {0: [3]}, "it was never appended"
    assert backend.grammar.num_started == 2


def test_a_preempted_sequence_is_followed_anew(backend: Backend, follower: ConstraintFollower) -> None:
    grown = sequence(0, (3,))
    assert allowed(follower, grown) == {0: [2]}
    assert allowed(follower, sequence(1)) == {0: [3]}  # a step without it
    assert allowed(follower, sequence(1), grown) == {0: [3], 1: [2]}
    assert allowed(follower, sequence(0)) == {0: [3]}, "another sequence with the same number"


def test_who_cannot_go_on_fails_alone(follower: ConstraintFollower) -> None:
    masks, failed = follower.look_ahead([sequence(4), sequence(5, (3, 9))], CPU)
    assert list(masks) == [0]
    assert list(failed) == [5]
    assert str(failed[5]) == "regex: the text cannot be continued after 2 tokens: 9 is not 2. Correct or simplify it."
