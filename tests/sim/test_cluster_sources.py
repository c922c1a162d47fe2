"""Where a cluster file's step times come from: catalogue and measured tables, by name."""

import pytest

from steelyard.core.errors import InputError
from steelyard.cost.llmservingsim import shipped_steps
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.splitwise import splitwise_steps
from steelyard.hardware.catalogue.read import find_device
from steelyard.sim.cluster_file import cluster_from_table

_MODEL = {
    "num_layer_params": 1000,
    "hidden_size": 8,
    "vocab_size": 10,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 2,
    "num_layers": 2,
    "dtype": "float16",
}


def steps_of(**steps):
    engine = {"max_model_len": 64, "num_kv_blocks": 100}
    return (
        cluster_from_table({"replicas": [{"name": "a", "count": 1, "steps": steps, "engine": engine}]}).groups[0].steps
    )


def test_measured_tables():
    assert steps_of(source="llmservingsim", device="rtx-pro-6000") is shipped_steps("rtx-pro-6000")
    known = splitwise_steps("bloom-176b", "h100", 8)
    found = steps_of(source="splitwise", model="bloom-176b", device="h100", tp=8)
    assert (found.context_s, found.prompts.axes) == (known.context_s, known.prompts.axes)


def test_devices_of_the_catalogue():
    steps = steps_of(source="parallel", device="h100", model=_MODEL, tp=4, pp=2)
    assert isinstance(steps, ParallelSteps)
    assert (steps.device, steps.num_devices, steps.model.num_layers) == (find_device("h100"), 8, 2)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ({"source": "parallel", "device": "h10", "model": _MODEL}, "Did you mean h100"),
        ({"source": "parallel", "device": "h100", "model": _MODEL, "tpp": 4}, "tp"),
        ({"source": "parallel", "device": "h100", "model": _MODEL, "tp": 3}, "Use one of 1, 2, 4"),
        ({"source": "splitwise", "device": "h100", "tp": 3}, "llama2-70b h100 tp8"),
        ({"source": "llmservingsim", "devise": "h100"}, "device"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_near(steps, told):
    with pytest.raises(InputError) as caught:
        steps_of(**steps)
    assert told in (caught.value.remedy or "")
