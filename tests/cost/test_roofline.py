"""The roofline model against numbers worked out by hand and by counting, and its monotony."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.roofline import (
    ModelShape,
    SequenceShape,
    StepShape,
    attention_work,
    linear_work,
    lm_head_work,
    step_cost,
    visible_keys,
    visible_pairs,
)
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate

MODEL = ModelShape(
    num_layer_params=1000, hidden_size=8, vocab_size=50, num_heads=4, num_kv_heads=2, head_dim=3,
    windows=(None, None), weight_bytes=2, kv_bytes=2,
)  # fmt: skip


def _device(flop_per_s=1e6, bandwidth=1e5):
    memory = MemoryTier(name="memory", capacity_bytes=1, bandwidth_bytes_per_s=bandwidth)
    peak = PeakRate(dtype="float32", flop_per_s=flop_per_s)
    return Device(name="d", kind=DeviceKind.CPU, memory=(memory,), peaks=(peak,))


def test_a_decode_step_by_hand():
    step = StepShape.of((1, 10), (1, 5))
    assert linear_work(step, MODEL).flop == 2 * 1000 * 2
    assert linear_work(step, MODEL).num_bytes == 1000 * 2
    assert attention_work(step, MODEL).flop == 2 * (10 + 5) * 4 * (4 * 3)
    assert attention_work(step, MODEL).num_bytes == 2 * (10 + 5 + 2) * (2 * 2 * 3) * 2
    assert lm_head_work(step, MODEL).flop == 2 * 8 * 50 * 2
    assert lm_head_work(step, MODEL).num_bytes == 8 * 50 * 2
    cost = step_cost(step, MODEL, _device(), overhead_s=0.5)
    assert cost.linear.seconds == max(4000 / 1e6, 2000 / 1e5) == 0.02
    assert cost.linear.is_memory_bound
    assert cost.flop == 4000 + 1440 + 1600
    assert cost.num_bytes == 2000 + 816 + 800
    assert cost.seconds == pytest.approx(0.5 + 0.02 + 0.00816 + 0.008)


def test_prefill_is_compute_bound_and_reads_weights_once():
    cost = step_cost(StepShape.of((500, 500)), MODEL, _device())
    assert not cost.linear.is_memory_bound
    assert cost.linear.seconds == 2 * 1000 * 500 / 1e6
    assert cost.linear.work.num_bytes == 2000


def test_an_empty_step_costs_the_overhead():
    cost = step_cost(StepShape(()), MODEL, _device(), overhead_s=0.25)
    assert (cost.seconds, cost.flop, cost.num_bytes) == (0.25, 0, 0)


def test_packed_weights_read_fewer_bytes_and_compute_the_same():
    packed = replace(MODEL, weight_bytes=0.5625)
    step = StepShape.of((1, 1))
    assert linear_work(step, packed).num_bytes == 562.5
    assert linear_work(step, packed).flop == linear_work(step, MODEL).flop


@given(st.integers(1, 60), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 80)))
def test_visible_pairs_and_keys_by_counting(new, before, window):
    sequence = SequenceShape(new, before + new)
    reach = window or 10**9
    seen = [range(max(0, p - reach + 1), p + 1) for p in range(before, before + new)]
    assert visible_pairs(sequence, window) == sum(len(keys) for keys in seen)
    assert visible_keys(sequence, window) == len({key for keys in seen for key in keys})


def test_chunked_prefill_pairs_add_up_to_the_whole():
    whole = attention_work(StepShape.of((96, 96)), MODEL).flop
    assert sum(attention_work(StepShape.of((32, end)), MODEL).flop for end in (32, 64, 96)) == whole


_SHAPES = st.tuples(st.integers(1, 40), st.integers(0, 200)).map(lambda pair: (pair[0], pair[0] + pair[1]))
_STEPS = st.lists(_SHAPES, min_size=1, max_size=4)
_WINDOWS = st.lists(st.one_of(st.none(), st.integers(1, 64)), min_size=1, max_size=4).map(tuple)
_SIZES = (
    "num_layer_params", "hidden_size", "vocab_size", "num_heads", "num_kv_heads", "head_dim", "weight_bytes",
    "kv_bytes",
)  # fmt: skip


@given(_STEPS, _WINDOWS, st.sampled_from(_SIZES), st.integers(1, 5), st.floats(1e3, 1e9), st.floats(1e3, 1e9))
def test_larger_models_never_cost_less(pairs, windows, field, factor, flop_per_s, bandwidth):
    model = replace(MODEL, windows=windows)
    larger = replace(model, **{field: getattr(model, field) * factor})
    _assert_not_cheaper(_cost(pairs, model, flop_per_s, bandwidth), _cost(pairs, larger, flop_per_s, bandwidth))


@given(_STEPS, _WINDOWS, _SHAPES, st.floats(1e3, 1e9), st.floats(1e3, 1e9))
def test_more_work_never_costs_less(pairs, windows, extra, flop_per_s, bandwidth):
    model = replace(MODEL, windows=windows)
    (new, context), *rest = pairs
    base = _cost(pairs, model, flop_per_s, bandwidth)
    more_sequences = [*pairs, extra]
    longer_context = [(new, context + extra[1]), *rest]
    more_new_tokens = [(min(context, new + extra[0]), context), *rest]
    for more in (more_sequences, longer_context, more_new_tokens):
        _assert_not_cheaper(base, _cost(more, model, flop_per_s, bandwidth))
    wider = replace(model, windows=tuple(window and window + extra[0] for window in windows))
    deeper = replace(model, windows=(*windows, extra[0]))
    for other in (wider, deeper):
        _assert_not_cheaper(base, _cost(pairs, other, flop_per_s, bandwidth))


@given(_STEPS, st.floats(1e3, 1e9), st.floats(1e3, 1e9), st.floats(1, 10))
def test_slower_devices_and_overhead_never_cost_less(pairs, flop_per_s, bandwidth, factor):
    base = _cost(pairs, MODEL, flop_per_s, bandwidth).seconds
    assert _cost(pairs, MODEL, flop_per_s / factor, bandwidth).seconds >= base
    assert _cost(pairs, MODEL, flop_per_s, bandwidth / factor).seconds >= base
    assert step_cost(StepShape.of(*pairs), MODEL, _device(flop_per_s, bandwidth), overhead_s=factor).seconds >= base


def _cost(pairs, model, flop_per_s, bandwidth):
    return step_cost(StepShape.of(*pairs), model, _device(flop_per_s, bandwidth))


def _assert_not_cheaper(base, more):
    assert more.flop >= base.flop
    assert more.num_bytes >= base.num_bytes
    assert more.seconds >= base.seconds


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda: replace(MODEL, head_dim=0), "head_dim"),
        (lambda: replace(MODEL, weight_bytes=float("nan")), "weight_bytes"),
        (lambda: replace(MODEL, windows=()), "windows"),
        (lambda: replace(MODEL, windows=(0,)), "windows"),
        (lambda: StepShape.of((0, 5)), "num_new_tokens"),
        (lambda: StepShape.of((6, 5)), "num_new_tokens"),
        (lambda: step_cost(StepShape(()), MODEL, _device(), overhead_s=-1), "overhead_s"),
        (lambda: step_cost(StepShape(()), replace(MODEL, dtype="int8"), _device()), "d.peaks"),
        (lambda: step_cost(StepShape(()), MODEL, _device(bandwidth=None)), "d.memory"),
    ],
)
def test_impossible_inputs_are_refused(wrong, field):
    with pytest.raises(InputError) as caught:
        wrong()
    assert caught.value.field == field
