"""Rates from the cost model: the objective and the memory hold, and larger requests are served more slowly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ParamsError
from steelyard.plan.fleet import SizeBucket
from steelyard.plan.fleet_rates import ServingEfficiency, largest_batch, modelled_type, served_rate
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model

MODEL, L4, A100 = find_serving_model("llama-2-7b"), find_serving_device("l4"), find_serving_device("a100-80gb")
ENGINE = ServingEfficiency()


@given(st.integers(1, 2000), st.integers(1, 500), st.floats(0.02, 1))
def test_what_is_served_meets_the_objective_and_the_memory(prompt, answer, slo):
    served = served_rate(MODEL, A100, (prompt, answer), slo, ENGINE)
    if served is not None:
        assert served.token_s <= slo
        assert served.batch <= largest_batch(MODEL, A100, (prompt, answer), ENGINE)
        assert served.rate_per_s == pytest.approx(served.batch / (served.token_s * answer))


def test_a_tighter_objective_serves_less_until_nothing():
    rates = [served_rate(MODEL, L4, (500, 100), slo, ENGINE) for slo in (0.3, 0.1, 0.01)]
    assert rates[0] is not None
    assert rates[1] is not None
    assert rates[0].rate_per_s > rates[1].rate_per_s
    assert rates[2] is None
    with pytest.raises(ParamsError, match="not positive"):
        served_rate(MODEL, L4, (500, 100), 0, ENGINE)


def test_weights_that_do_not_fit_leave_no_batch():
    assert largest_batch(find_serving_model("llama-2-70b"), L4, (1, 1), ENGINE) == 0
    assert largest_batch(MODEL, A100, (1, 1), ENGINE) == ENGINE.max_batch


def test_a_device_without_a_price_is_refused():
    buckets = (SizeBucket(prompt_tokens=10, answer_tokens=10, rate_per_s=1),)
    assert modelled_type(MODEL, L4, buckets, 0.1).rates_per_s[0] > 0
    with pytest.raises(InputError, match="price of a40"):
        modelled_type(MODEL, find_serving_device("a40"), buckets, 0.1)
