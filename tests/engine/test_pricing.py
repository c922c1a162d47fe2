"""What a loaded model's steps are priced by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steelyard.core.errors import InputError
from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import OPERATORS, operator_costs, total_s
from steelyard.cost.profile import Profile
from steelyard.cost.roofline import StepShape
from steelyard.engine.build import LLMOptions, Parts, build_parts
from steelyard.engine.pricing import held_shape, pricing_of
from steelyard.hardware.device import PeakRate
from steelyard.hardware.this_machine import this_machine

STEP = StepShape.of((1, 100), (20, 20))


@pytest.fixture(scope="module")
def parts() -> Parts:
    return build_parts(None, LLMOptions(max_model_len=256, max_num_seqs=2))


def profile(**calibration: object) -> Profile:
    machine = this_machine()
    cpu = machine.devices[0]
    tier = replace(cpu.memory[0], bandwidth_bytes_per_s=1e9)
    rates = tuple(PeakRate(dtype=dtype, flop_per_s=1e9) for dtype in ("float32", "int8"))
    half = {"compute_efficiency": 0.5, "memory_efficiency": 0.5}
    fits = tuple(OperatorFit(operator=name, dtype=dtype, **half) for dtype in ("float32", "int8") for name in OPERATORS)
    return Profile(
        machine=replace(machine, devices=(replace(cpu, memory=(tier,), peaks=rates),)),
        calibration=Calibration(path="torch", fits=fits, **calibration),  # type: ignore[arg-type]
    )


def test_a_step_is_priced_as_its_operators_together(parts: Parts):
    pricing = pricing_of(parts, profile())
    assert pricing.model == held_shape(parts)
    assert pricing.calibration is not None
    costs = operator_costs(pricing.model, STEP, pricing.device, pricing.calibration)
    price = pricing.price(STEP)
    assert (price.predicted_s, price.limit_s) == total_s(costs)
    weights = pricing.model.num_layer_params * pricing.model.weight_bytes
    assert weights < price.num_bytes < sum(cost.num_bytes for cost in costs)
    assert 0 < price.flop < sum(cost.flop for cost in costs)


def test_a_calibration_with_other_threads_predicts_nothing(parts: Parts):
    pricing = pricing_of(parts, profile(num_threads=torch.get_num_threads() + 1))
    price = pricing.price(STEP)
    assert price.predicted_s is None
    assert price.limit_s > 0


def test_a_profile_without_the_models_device_is_refused(parts: Parts):
    given = profile()
    gpu = replace(given.machine.devices[0], name="cuda:0")
    with pytest.raises(InputError):
        pricing_of(parts, replace(given, machine=replace(given.machine, devices=(gpu,))))


def test_an_unknown_rate_is_an_error(parts: Parts):
    pricing = pricing_of(parts, profile())
    with pytest.raises(InputError):
        replace(pricing, device=replace(pricing.device, peaks=())).price(STEP)
