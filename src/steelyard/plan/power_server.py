"""A machine of the catalogue as a server of a row that shares a power budget."""

from __future__ import annotations

from steelyard.core.errors import InputError
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.power import power_model
from steelyard.engine.config import EngineConfig
from steelyard.hardware.catalogue.read import find_device, find_machine
from steelyard.plan.phase_instances import kv_room
from steelyard.plan.power import Server
from steelyard.plan.serving_catalogue import find_serving_model

_BLOCK_SIZE = 16
_PLENTY = 1 << 20  # of waiting sequences: in a simulation a full queue would hide how long it becomes


def server_of(
    model: str, machine: str, context: int, rated_watts: float | None = None, host_watts: float | None = None
) -> Server:
    """Return a machine of the catalogue as a server whose devices share a model.

    Raises:
        InputError: if one is not known, the model does not fit, or the power of it is not known.
    """
    found = find_machine(machine)
    device, shape = find_device(found.device), find_serving_model(model)
    draws, rated = power_model(device), rated_watts or found.peak_watts
    if draws is None or rated is None:
        problem = f"nothing is known of what {machine} draws"
        raise InputError(problem, field="machine", remedy="Choose another, or give --server-watts")
    room = kv_room(shape, device, found.num_devices)
    if room < context:
        problem = f"{model} and {context} tokens do not fit into {found.num_devices} × {device.name}"
        raise InputError(problem, field="context", remedy="Choose a larger machine or a smaller model")
    return Server(
        steps=ParallelSteps(model=shape, device=device, tp=found.num_devices),
        engine=EngineConfig(max_model_len=context, num_kv_blocks=room // _BLOCK_SIZE, max_waiting=_PLENTY),
        idle_watts=found.num_devices * draws.idle_watts,
        host_watts=max(0.0, rated - found.num_devices * draws.peak_watts) if host_watts is None else host_watts,
        rated_watts=rated,
    )
