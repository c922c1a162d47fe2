"""S74's mechanism on the virtual clock: same arrivals, same machine, three ways to batch."""

from types import SimpleNamespace

import pytest

from steelyard.engine.config import EngineConfig
from steelyard.engine.executor import ModelledExecutor, SyntheticTokens
from steelyard.reproduce.s74 import ARMS, Outcome, make_engine, median_outcome, poisson_arrivals, rows, serve
from steelyard.sim.virtual import run_virtual

VOCABULARY = 100
# Enough of an engine's parts for an engine without a model.
PARTS = SimpleNamespace(
    engine_config=EngineConfig(max_model_len=512, num_kv_blocks=2048),
    model=SimpleNamespace(config=SimpleNamespace(vocab_size=VOCABULARY)),
)


def simulate(seed: int) -> dict[str, Outcome]:
    """A machine whose steps cost 20 ms and half a millisecond a token: reading the weights dominates decoding."""
    executor = ModelledExecutor(lambda batch: 0.020 + 0.0005 * batch.num_tokens, SyntheticTokens(VOCABULARY))
    arrivals = poisson_arrivals(60, VOCABULARY, seed)
    return {arm.name: run_virtual(serve(make_engine(PARTS, arm, executor), arrivals)) for arm in ARMS}


@pytest.mark.parametrize("seed", range(3))
def test_temporal_fusion_beats_static_batches_beats_one_at_a_time(seed: int) -> None:
    outcome = simulate(seed)
    continuous, static, single = (outcome[arm.name] for arm in ARMS)
    assert continuous.mean_s < static.mean_s < single.mean_s
    assert continuous.ttft_s < static.ttft_s < single.ttft_s
    assert continuous.tokens_per_s > 2 * single.tokens_per_s


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert simulate(1) == simulate(1)
    assert poisson_arrivals(5, VOCABULARY, 1) != poisson_arrivals(5, VOCABULARY, 2)


def test_the_table_compares_fusion_with_both_others() -> None:
    fast = Outcome(tokens_per_s=100.0, mean_s=1.0, p90_s=2.0, ttft_s=0.1)
    slow = Outcome(tokens_per_s=25.0, mean_s=5.0, p90_s=6.0, ttft_s=3.0)
    outcomes = {ARMS[0]: fast, ARMS[1]: slow, ARMS[2]: slow}
    ratios = [row.ratio for row in rows(outcomes, outcomes) if row.ratio is not None]
    assert ratios == [5.0, 4.0, 5.0, 4.0]
    assert median_outcome([fast, slow, slow]) == slow
