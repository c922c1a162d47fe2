"""The search over layouts: complete, within memory, and able to say why."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import MemoryBudgetError, ParamsError
from steelyard.plan.parallel import (
    LayoutSpace,
    ParallelJob,
    describe,
    fewest_gpus,
    forecast_layout,
    layouts,
    plan_parallel,
    reasons,
)
from steelyard.plan.training import Recompute, TrainingLayout, TrainingModel
from steelyard.plan.training_catalogue import find_training_cluster

CLUSTER, EFFICIENCY = find_training_cluster("dgx-a100")
SMALL = TrainingModel(name="small", num_layers=4, hidden_size=256, num_heads=4, sequence_tokens=128, vocab_size=512)
SPACE = LayoutSpace()


def job(model=SMALL, num_gpus=8, global_batch=16, memory_bytes=CLUSTER.memory_bytes):
    cluster = replace(CLUSTER, memory_bytes=memory_bytes)
    return ParallelJob(
        model=model, cluster=cluster, efficiency=EFFICIENCY, num_gpus=num_gpus, global_batch=global_batch
    )


def brute_force(one, space):
    """Every layout of small degrees that keeps the rules, written down again from the rules' words."""
    found = set()
    numbers = range(1, 33)
    for tp, pp, micro, chunks in product((1, 2, 4), (1, 2, 4), numbers, (1, 2, 4)):
        dp, rest = divmod(one.num_gpus, tp * pp)
        if rest or one.global_batch % (dp * micro) or one.model.num_layers % (pp * chunks):
            continue
        if chunks > 1 and (pp == 1 or one.global_batch // (dp * micro) % pp):
            continue
        for zero, recompute, split in product(space.zero_stages, Recompute, (False, True)):
            if (zero and dp == 1) or (zero > 1 and pp > 1) or (split and tp == 1):
                continue
            found.add(TrainingLayout(tp=tp, pp=pp, dp=dp, microbatch=micro, interleave=chunks, zero_stage=zero,
                                     recompute=recompute, sequence_parallel=split))  # fmt: skip
    return found


@settings(deadline=None, max_examples=30)
@given(num_gpus=st.sampled_from([1, 2, 4, 6, 8, 16]), global_batch=st.integers(1, 24), zero=st.booleans())
def test_the_space_is_searched_whole_and_once(num_gpus, global_batch, zero):
    space = LayoutSpace(zero_stages=(0, 1, 2, 3) if zero else (0,))
    one = job(num_gpus=num_gpus, global_batch=global_batch)
    found = list(layouts(one, space))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(one, space)


def test_the_best_is_the_fastest_that_fits():
    one = job(memory_bytes=16_000_000)
    plan = plan_parallel(one, SPACE)
    fitting = [
        forecast_layout(one, layout)
        for layout in layouts(one, SPACE)
        if forecast_layout(one, layout).memory.total <= one.budget_bytes
    ]
    assert 0 < len(fitting) < plan.num_tried
    assert plan.best.step.seconds == min(forecast.step.seconds for forecast in fitting)
    assert plan.num_tried - plan.num_too_large == len(fitting)
    seconds = [forecast.step.seconds for forecast in plan.ranked]
    assert seconds == sorted(seconds)


def test_more_memory_is_never_slower():
    plans = [plan_parallel(job(memory_bytes=size), SPACE) for size in (12e6, 16e6, 24e6, 80e9)]
    seconds = [plan.best.step.seconds for plan in plans]
    assert seconds == sorted(seconds, reverse=True)


def test_what_is_fixed_stays_fixed():
    plan = plan_parallel(job(), LayoutSpace(fixed=(("tp", 2), ("microbatch", 1))))
    assert {(one.layout.tp, one.layout.microbatch) for one in plan.ranked} == {(2, 1)}


def test_reasons_name_the_constraint_and_the_next_best():
    tight = plan_parallel(job(memory_bytes=16_000_000), SPACE)
    told = " ".join(reasons(tight))
    assert "Memory binds" in told
    assert f"Next best: {describe(tight.ranked[1].layout)}" in told
    assert "Memory does not bind" in " ".join(reasons(plan_parallel(job(), SPACE)))


def test_nothing_fits_says_what_would():
    one = job(memory_bytes=4e6)
    with pytest.raises(MemoryBudgetError, match="no layout of small on 8 devices fits") as caught:
        plan_parallel(one, SPACE)
    enough = fewest_gpus(one, SPACE)
    assert enough is not None
    assert str(enough) in caught.value.remedy
    assert plan_parallel(replace(one, num_gpus=enough, global_batch=16 * enough // 8), SPACE).best


def test_no_number_of_devices_is_enough():
    assert fewest_gpus(job(memory_bytes=1e3), SPACE) is None


def test_nothing_divides():
    with pytest.raises(ParamsError, match="tp = 3") as caught:
        plan_parallel(job(), LayoutSpace(fixed=(("tp", 3),)))
    assert caught.value.field == "num_gpus"


@pytest.mark.parametrize(("name", "value"), [("num_gpus", 0), ("global_batch", 0), ("memory_share", 1.5)])
def test_bad_jobs_are_refused(name, value):
    with pytest.raises(ParamsError) as caught:
        replace(job(), **{name: value})
    assert caught.value.field == name


def test_describe_is_short():
    layout = TrainingLayout(tp=8, pp=16, dp=15, interleave=2, zero_stage=1, sequence_parallel=True)
    expected = "TP 8, PP 16, DP 15, microbatch 1, 2 chunks, full recomputation, sequence parallel, ZeRO-1"
    assert describe(layout) == expected
