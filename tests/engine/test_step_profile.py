"""What an engine's steps did and where their time went, on a small model."""

from __future__ import annotations

import asyncio

import pytest
from tiny_engine import make_request, tiny_runner

from steelyard.cost.operators import OPERATORS
from steelyard.cost.roofline import SequenceShape
from steelyard.engine.calibration_steps import small_llama
from steelyard.engine.native_calibration import decoder_runner, random_decoder
from steelyard.engine.step_profile import StepProfiler
from steelyard.engine.torch_executor import InlineExecutor
from steelyard.kernels.native import native_available


def served(make_engine, runner, profiler, **sizes):
    async def run():
        engine = make_engine(executor=InlineExecutor(runner), observers=(profiler,), **sizes)
        loop = asyncio.create_task(engine.run())
        await engine.submit(make_request("a", (1, 2, 3), max_tokens=3)).result()
        engine.remove_observer(profiler)
        await engine.submit(make_request("b", (4, 5), max_tokens=2)).result()
        await engine.close()
        await loop

    asyncio.run(run())


def test_keeps_shapes_and_what_is_known_of_a_model_that_runs_module_by_module(make_engine):
    runner = tiny_runner(64)
    profiler = StepProfiler(runner)
    served(make_engine, runner, profiler)
    shapes = [step.shape.sequences for step in profiler.steps]
    assert shapes == [(SequenceShape(3, 3),), (SequenceShape(1, 4),), (SequenceShape(1, 5),)]
    assert [step.is_decode for step in profiler.steps] == [False, True, True]
    assert all(set(step.seconds) == {"lm_head", "sampling"} for step in profiler.steps)
    profiler.restart()
    assert profiler.steps == []
    assert set(runner.take_profile().values()) == {0.0}, "what nobody observed is forgotten too"


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
def test_a_native_step_is_taken_apart_whole(make_engine):
    config = small_llama(2, hidden_size=64, feed_forward_size=64, num_heads=1, num_kv_heads=1, vocab_size=100)
    runner = decoder_runner(random_decoder(config), 8)
    profiler = StepProfiler(runner)
    served(make_engine, runner, profiler, block_size=16, num_kv_blocks=8)
    assert len(profiler.steps) == 3
    for step in profiler.steps:
        assert set(step.seconds) == set(OPERATORS)
        assert all(seconds >= 0 for seconds in step.seconds.values())
        assert step.seconds["linear"] > 0
