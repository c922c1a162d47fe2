"""Which attention a device gets, and where recorded decodes are refused."""

import pytest
import torch

from steelyard.core.errors import ParamsError
from steelyard.engine.build import LLMOptions, build_parts
from steelyard.engine.step_kv import choose_step_kv, paged_step_kv
from steelyard.kernels.triton_available import triton_installed


def test_the_cpu_attends_by_pytorch_even_where_triton_is_interpreted() -> None:
    assert choose_step_kv(torch.device("cpu")) is paged_step_kv


@pytest.mark.gpu
def test_cuda_attends_by_triton_where_it_is_installed() -> None:
    assert (choose_step_kv(torch.device("cuda")) is paged_step_kv) is not triton_installed()


def test_decodes_are_recorded_on_cuda_only() -> None:
    with pytest.raises(ParamsError) as caught:
        build_parts(None, LLMOptions(device="cpu", decode_graphs=True, max_model_len=64))
    assert caught.value.field == "decode_graphs"
