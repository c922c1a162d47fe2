"""A step taken apart: the roofline's own work, the calibration by hand, and the table beside a measurement."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import (
    OPERATORS,
    elementwise_work,
    kv_write_work,
    operator_costs,
    operator_rows,
    summed,
    total_s,
)
from steelyard.cost.roofline import ModelShape, StepShape, attention_work, linear_work, lm_head_work, step_cost
from steelyard.hardware.device import Cache, Device, DeviceKind, MemoryTier, PeakRate

MODEL = ModelShape(
    num_layer_params=1000, hidden_size=8, vocab_size=50, num_heads=4, num_kv_heads=2, head_dim=3,
    windows=(None, None), weight_bytes=2, kv_bytes=2, feed_forward_size=5,
)  # fmt: skip
DEVICE = Device(
    name="d",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1, bandwidth_bytes_per_s=1e5),),
    peaks=(PeakRate(dtype="float32", flop_per_s=1e6),),
)
DECODE = StepShape.of((1, 10), (1, 5))


def by_name(costs):
    return {cost.name: cost for cost in costs}


def test_matrices_and_attention_are_the_rooflines():
    costs = by_name(operator_costs(MODEL, DECODE, DEVICE))
    assert tuple(costs) == OPERATORS
    for name, work in (
        ("linear", linear_work(DECODE, MODEL)),
        ("attention", attention_work(DECODE, MODEL)),
        ("lm_head", lm_head_work(DECODE, MODEL)),
    ):
        assert (costs[name].flop, costs[name].num_bytes) == (work.flop, work.num_bytes)
    whole = step_cost(DECODE, MODEL, DEVICE)
    parts = [costs[name].limit_s for name in ("linear", "attention", "lm_head")]
    assert sum(parts) == pytest.approx(whole.seconds)


def test_the_rest_by_hand():
    costs = by_name(operator_costs(MODEL, DECODE, DEVICE))
    elements = 2 * 2 * (10 * 8 + 3 * 5)  # tokens · layers · (…)
    assert costs["elementwise"].flop == elements
    assert costs["elementwise"].num_bytes == 4 * elements
    assert (costs["kv_write"].flop, costs["kv_write"].num_bytes) == (2 * 2 * 2 * (4 + 2) * 3, 0)
    assert (costs["sampling"].flop, costs["sampling"].num_bytes) == (100, 400)
    assert (costs["step"].flop, costs["step"].limit_s, costs["step"].predicted_s) == (0, 0, 0)
    assert [costs[name].num_calls for name in OPERATORS] == [8, 2, 2, 2, 1, 1, 1]
    assert elementwise_work(DECODE, replace(MODEL, feed_forward_size=None)).flop == elements - 4 * 15
    assert elementwise_work(DECODE, replace(MODEL, dtype="bfloat16")).num_bytes == 2 * elements


@pytest.mark.parametrize(
    ("sequence", "others"), [((1, 1), 3), ((1, 4), 3), ((1, 5), 3), ((4, 8), 0), ((3, 5), 5), ((2, 4), 2), ((9, 9), 3)]
)
def test_storing_keys_touches_the_rest_of_their_groups(sequence, others):
    grouped = replace(MODEL, key_group=4)
    key_bytes = 2 * 3 * 2  # kv heads · head_dim · bytes
    assert kv_write_work(StepShape.of(sequence), grouped).num_bytes == 2 * others * key_bytes
    both = kv_write_work(StepShape.of(sequence, sequence), grouped)
    assert both.num_bytes == 2 * 2 * others * key_bytes


def test_a_calibration_by_hand():
    fits = (
        OperatorFit(operator="linear", dtype="float32", overhead_s=0.25, memory_efficiency=0.5, compute_efficiency=0.1),
        OperatorFit(operator="step", dtype="float32", overhead_s=3.0),
        OperatorFit(operator="lm_head", dtype="bfloat16", overhead_s=9.0),
    )
    costs = by_name(operator_costs(MODEL, DECODE, DEVICE, Calibration(path="torch", fits=fits)))
    assert costs["linear"].predicted_s == pytest.approx(8 * 0.25 + max(4000 / 1e6 / 0.1, 2000 / 1e5 / 0.5))
    assert costs["linear"].limit_s == pytest.approx(2000 / 1e5)
    assert costs["step"].predicted_s == 3.0
    assert costs["lm_head"].predicted_s == costs["lm_head"].limit_s, "another dtype's factors do not apply"


def test_packed_weights_lower_the_limit_of_a_decode():
    packed = replace(MODEL, weight_bytes=0.5625)
    wide, narrow = (by_name(operator_costs(model, DECODE, DEVICE)) for model in (MODEL, packed))
    assert narrow["linear"].num_bytes == 562.5
    assert narrow["linear"].limit_s < wide["linear"].limit_s
    assert narrow["attention"] == wide["attention"]


def test_the_output_projection_may_be_packed_in_another_way():
    head = by_name(operator_costs(replace(MODEL, head_weight_bytes=1.0625), DECODE, DEVICE))["lm_head"]
    assert head.num_bytes == 8 * 50 * 1.0625
    with pytest.raises(InputError, match="not positive"):
        replace(MODEL, head_weight_bytes=0.0)


def test_what_the_last_cache_keeps_of_a_step_is_read_faster():
    fit = OperatorFit(operator="linear", dtype="float32", memory_efficiency=0.5, cached_efficiency=2.0)
    calibration = Calibration(path="native", fits=(fit,))
    cache = Cache(level=3, capacity_bytes=1 << 20)
    cold, warm = (
        by_name(operator_costs(MODEL, DECODE, device, calibration))["linear"]
        for device in (DEVICE, replace(DEVICE, caches=(cache,)))
    )
    assert cold.predicted_s == pytest.approx(4 * warm.predicted_s)
    assert cold.limit_s == warm.limit_s


def test_steps_add_up_operator_by_operator():
    costs = operator_costs(MODEL, DECODE, DEVICE)
    twice = summed([costs, costs])
    assert [cost.name for cost in twice] == list(OPERATORS)
    assert [cost.num_calls for cost in twice] == [2 * cost.num_calls for cost in costs]
    assert total_s(twice) == pytest.approx([2 * seconds for seconds in total_s(costs)])


def test_an_empty_step_costs_its_overhead():
    fits = tuple(OperatorFit(operator=name, dtype="float32", overhead_s=1.0) for name in OPERATORS)
    costs = operator_costs(MODEL, StepShape(()), DEVICE, Calibration(path="torch", fits=fits))
    assert total_s(costs) == (1.0, 0.0)


def test_shares_are_of_the_prediction_until_all_is_measured():
    costs = operator_costs(MODEL, DECODE, DEVICE)
    rows = operator_rows(costs, {"linear": 7.0})
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert rows[0].share == pytest.approx(costs[0].predicted_s / total_s(costs)[0])
    assert [row.measured_s for row in rows] == [7.0, *[None] * 6]
    rows = operator_rows(costs, dict.fromkeys(OPERATORS, 2.0))
    assert [row.share for row in rows] == pytest.approx([1 / 7] * 7)
    assert [row.limit_s for row in rows] == [cost.limit_s for cost in costs]
    assert all(row.share == 0 for row in operator_rows(operator_costs(MODEL, StepShape(()), DEVICE)))


def test_what_is_no_operator_is_refused():
    with pytest.raises(InputError, match="linear, kv_write, attention"):
        operator_rows(operator_costs(MODEL, DECODE, DEVICE), {"softmax": 1.0})
    with pytest.raises(InputError, match="int8 is not known"):
        operator_costs(replace(MODEL, dtype="int8"), DECODE, DEVICE)


_SHARES = st.floats(0.01, 1.0)


@given(st.sampled_from(OPERATORS), _SHARES, _SHARES, st.floats(0, 1), st.integers(1, 50), st.integers(0, 50))
def test_imperfection_never_helps(name, compute, memory, overhead_s, new, before):
    fit = OperatorFit(
        operator=name, dtype="float32", compute_efficiency=compute, memory_efficiency=memory, overhead_s=overhead_s
    )
    step = StepShape.of((new, new + before))
    for cost in operator_costs(MODEL, step, DEVICE, Calibration(path="torch", fits=(fit,))):
        assert cost.predicted_s >= cost.limit_s
        assert cost.name == name or cost.predicted_s == cost.limit_s
