"""The bridge to the cost model: sizes read off a model's description, and steps priced by them."""

import pytest
import torch
from tiny_engine import make_request, tiny_decoder, tiny_runner

from steelyard.core.batch import Batch, SequenceWork
from steelyard.core.sequence import Sequence
from steelyard.engine.prediction import calibrated_device, model_shape, predicted_step_cost
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate
from steelyard.models.decoder import Decoder

DEVICE = Device(
    name="cpu",
    kind=DeviceKind.CPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 30, bandwidth_bytes_per_s=1e9),),
    peaks=(PeakRate(dtype="float32", flop_per_s=1e9),),
)


def batch(*shares: tuple[int, int]) -> Batch:
    """A batch of (tokens, context after) shares."""
    works = []
    for number, (tokens, end) in enumerate(shares):
        request = make_request(str(number), tuple(range(end)))
        sequence = Sequence(
            id=number, request_id=request.id, index=0, prompt=request.prompt_token_ids, params=request.params, seed=0,
            arrival_s=0.0,
        )  # fmt: skip
        works.append(SequenceWork(sequence, end - tokens, tokens, tuple(range(end))))
    return Batch(0, tuple(works))


def test_layer_parameters_are_those_of_the_decoder() -> None:
    config = tiny_decoder()[0].config
    matrices = sum(p.numel() for p in Decoder(config).layers.parameters() if p.dim() == 2)
    shape = model_shape(config, torch.float32)
    assert shape.num_layer_params == matrices
    assert (shape.num_layers, shape.vocab_size, shape.kv_bytes) == (2, config.vocab_size, 4)


def test_a_decode_step_costs_at_least_reading_the_weights() -> None:
    config = tiny_decoder()[0].config
    cost = predicted_step_cost(config, torch.float32, DEVICE)
    weights_s = 4 * (model_shape(config, torch.float32).num_layer_params + config.hidden_size * config.vocab_size) / 1e9
    assert cost(batch((1, 10))) >= weights_s
    assert cost(batch((1, 10), (1, 10))) < 2 * cost(batch((1, 10))), "two share the weights"
    assert cost(batch((40, 40))) > cost(batch((20, 20)))


def test_calibration_prices_its_own_steps_at_what_they_took() -> None:
    config = tiny_decoder()[0].config
    device = calibrated_device(tiny_runner(64), config, torch.float32, DEVICE)
    assert device.bandwidth_bytes_per_s > 0
    assert device.flop_per_s("float32") > 0
    assert device.flop_per_s("float32") != pytest.approx(1e9), "measured, not handed through"
    assert predicted_step_cost(config, torch.float32, device)(batch((1, 64))) > 0
