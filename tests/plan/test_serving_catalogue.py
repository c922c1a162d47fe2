"""Devices and decoders by name: all load, and a wrong name is told with those near it."""

import pytest

from steelyard.core.errors import InputError
from steelyard.plan.serving_catalogue import (
    find_serving_device,
    find_serving_model,
    serving_devices,
    serving_models,
    weights_bytes,
)


@pytest.mark.parametrize("name", serving_devices())
def test_every_device_loads(name):
    device = find_serving_device(name)
    assert device.name == name
    assert device.memory_bytes > 1e9
    assert device.device.flop_per_s("float16") > device.device.bandwidth_bytes_per_s > device.host_bytes_per_s


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-2-7b", 6.7), ("llama-2-70b", 69), ("llama-3-8b", 8), ("qwen2-72b", 72.7), ("yi-34b-200k", 34.4)],
)
def test_models_have_the_weights_that_their_names_say(name, billions):
    assert weights_bytes(find_serving_model(name)) / 2e9 == pytest.approx(billions, rel=0.01)


def test_names_that_are_not_known():
    assert "yi-34b-200k" in serving_models()
    with pytest.raises(InputError, match="a100-80g") as caught:
        find_serving_device("a100-80g")
    assert caught.value.remedy is not None
    assert "a100-80gb" in caught.value.remedy
