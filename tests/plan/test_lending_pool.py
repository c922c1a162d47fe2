"""A pool that lends: nothing is lost or lent twice, and over-long requests run where static engines refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ParamsError
from steelyard.cost.collectives import AlphaBeta
from steelyard.cost.lending import InstanceSteps
from steelyard.cost.parallel import ParallelSteps
from steelyard.hardware.catalogue.read import find_device
from steelyard.plan.lending import BLOCK_SIZE, Demand, PoolConfig, serve_pile
from steelyard.plan.serving_catalogue import find_serving_model

STEPS = InstanceSteps(
    steps=ParallelSteps(model=find_serving_model("llama-2-7b"), device=find_device("a100-80gb")),
    outside=AlphaBeta(start_s=0.0, hop_s=2e-6, bytes_per_s=25e9),
)
POOL = PoolConfig(steps=STEPS, count=4, num_blocks=100, policy="greedy")
FITS = 100 * BLOCK_SIZE


def test_one_request_by_hand() -> None:
    """A prompt, then as many steps as it has further tokens, at the context in the middle of each few."""
    alone = replace(POOL, count=1, policy="none")
    outcome = serve_pile(alone, [Demand(500, 2)])
    prompt_s = STEPS.dense_s(500, 1) + STEPS.attention_s(500 * 500 / 2, 500)
    decode_s = STEPS.dense_s(1, 1) + STEPS.attention_s(501.5, 501.5)
    assert outcome.seconds == pytest.approx(prompt_s + decode_s)
    assert (outcome.num_done, outcome.num_refused, outcome.num_tokens) == (1, 0, 2)
    assert serve_pile(replace(alone, computes_prompts=False), [Demand(500, 2)]).seconds == pytest.approx(decode_s)


def test_what_is_too_long_for_one_runs_on_several_and_is_refused_without_loans() -> None:
    demands = [Demand(3 * FITS, 10), *[Demand(200, 20)] * 6]
    lending, static = serve_pile(POOL, demands), serve_pile(replace(POOL, policy="none"), demands)
    assert (lending.num_done, lending.num_refused) == (7, 0)
    assert lending.num_loans >= 3
    assert (static.num_done, static.num_refused, static.num_loans) == (6, 1, 0)
    beyond = serve_pile(POOL, [Demand(5 * FITS, 10)])
    assert (beyond.num_done, beyond.num_refused) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3 * FITS), st.integers(1, 80)), min_size=1, max_size=25),
    policy=st.sampled_from(["none", "greedy"]),
    computes_prompts=st.booleans(),
)
def test_every_request_that_fits_is_answered_and_all_is_given_back(
    sizes: list[tuple[int, int]], policy: str, computes_prompts: bool
) -> None:
    config = replace(POOL, policy=policy, computes_prompts=computes_prompts)
    demands = [Demand(*one) for one in sizes]
    outcome = serve_pile(config, demands)  # checks its ledger at the end
    fitting = [one for one in demands if one.num_blocks <= config.longest_blocks]
    assert outcome.num_done == len(fitting)
    assert outcome.num_refused == len(demands) - len(fitting)
    assert outcome.num_tokens == sum(one.num_output_tokens for one in fitting)
    assert serve_pile(config, demands) == outcome


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ParamsError, match="greedy"):
        serve_pile(replace(POOL, policy="greed"), [Demand(1, 1)])
