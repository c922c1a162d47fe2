"""How a loaded model is prepared for its device, and where recorded decodes are refused."""

from importlib import import_module

import pytest
import torch
from tiny_engine import TINY, VOCABULARY, random_decoder
from torch import nn

from steelyard.core.errors import ParamsError
from steelyard.engine.build import LLMOptions, build_parts, prepare_model
from steelyard.models.dense_kv import DenseKV
from steelyard.models.quantised import Quantization

CPU = torch.device("cpu")


def test_decodes_are_recorded_on_cuda_only() -> None:
    with pytest.raises(ParamsError) as caught:
        build_parts(None, LLMOptions(device="cpu", decode_graphs=True, max_model_len=64))
    assert caught.value.field == "decode_graphs"


def test_an_unquantised_decoder_keeps_its_layers_on_the_cpu() -> None:
    decoder = random_decoder()
    kinds = [type(layer) for layer in decoder.layers]
    network, _ = prepare_model(decoder, Quantization.NONE, CPU)
    assert network is decoder
    assert [type(layer) for layer in decoder.layers] == kinds


@pytest.mark.parametrize(("quantization", "bits", "most"), [(Quantization.INT8, 8, 0.02), (Quantization.INT4, 4, 0.3)])
@torch.inference_mode()
def test_weight_only_forms_are_made_of_loaded_weights(quantization: Quantization, bits: int, most: float) -> None:
    pytest.importorskip("triton.language", reason="Triton is not installed (steelyard[test-gpu])")
    kind = import_module("steelyard.kernels.triton.linear").WeightOnlyLinear
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens, positions = torch.arange(5, device=device), torch.arange(5, device=device)

    def logits(chosen: Quantization) -> tuple[torch.Tensor, nn.Module]:
        decoder = random_decoder().to(device)
        network, _ = prepare_model(decoder, chosen, device)
        return network.logits(network(tokens, positions, DenseKV((5,)))), decoder

    expected, _ = logits(Quantization.NONE)
    got, decoder = logits(quantization)
    made = [module for module in decoder.modules() if isinstance(module, kind)]
    assert len(made) == 4 * TINY.num_layers
    assert {module.bits for module in made} == {bits}
    assert got.shape == (5, VOCABULARY)
    assert not torch.equal(got, expected)
    assert (got - expected).norm() < most * expected.norm()
