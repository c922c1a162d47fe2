"""Instances by name: degrees, room and price; what does not fit or is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steelyard.core.errors import InputError
from steelyard.hardware.catalogue.read import find_device
from steelyard.plan.phase_instances import (
    Scarce,
    device_price,
    kv_room,
    modelled_instances,
    profiled_instance,
    profiled_instances,
    profiled_kv_bytes,
)
from steelyard.plan.serving_catalogue import find_serving_model, kv_token_bytes, weights_bytes


def test_profiled_instances_have_their_room_and_price():
    found = profiled_instances("opt-66b", 3.0)
    assert [one.name for one in found] == ["TP2", "TP2 PP2", "TP3", "TP4", "TP4 PP2", "TP8"]
    assert [one.num_devices for one in found] == [2, 4, 3, 4, 8, 8]
    assert all(one.price == 3.0 * one.num_devices for one in found)
    assert found[1].num_kv_tokens == 78512
    assert found[1].stages == 2
    assert profiled_instance("opt-13b", "vllm", 2).steps != profiled_instance("opt-13b", "distserve", 2).steps
    assert profiled_kv_bytes("opt-13b") == 2 * 40 * 5120 * 2
    with pytest.raises(InputError, match="Use opt-13b, opt-66b"):
        profiled_instances("opt-175b", 1.0)


def test_modelled_instances_hold_the_model_and_a_context_in_every_stage():
    model, device = find_serving_model("llama-2-70b"), find_device("a100-80gb")
    found = modelled_instances(model, device, 2, 4096, 2.0)
    assert [one.name.removeprefix("a100-80gb ") for one in found] == ["TP2", "TP1 PP2"]
    assert all(one.price == 4.0 and one.num_kv_tokens >= one.stages * 4096 for one in found)
    assert modelled_instances(model, device, 1, 4096, 2.0) == []


def test_room_is_what_the_weights_leave():
    model, device = find_serving_model("llama-3-8b"), find_device("a100-80gb")
    free = 0.9 * 80 * 1024**3 - weights_bytes(model)
    assert kv_room(model, device, 1) == pytest.approx(free / kv_token_bytes(model), rel=0.1)
    assert kv_room(find_serving_model("llama-2-70b"), device, 1) == 0


def test_prices_by_what_is_scarce():
    device = find_device("a100-80gb")
    assert device_price(device, Scarce.DEVICES) == 1.0
    assert device_price(device, Scarce.DOLLARS) == device.dollars_per_hour
    assert device_price(device, Scarce.WATTS) == 400
    with pytest.raises(InputError, match="per watt"):
        device_price(replace(device, peak_watts=None), Scarce.WATTS)
