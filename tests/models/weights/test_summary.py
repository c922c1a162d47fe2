"""Counting a source's parameters and bytes."""

import pytest
import torch
from safetensors.torch import save_file

from steelyard.core.errors import ModelError
from steelyard.models.catalogue import load_catalogue, locate
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.safetensors_dir import SafetensorsDir
from steelyard.models.weights.summary import FormatShare, WeightsSummary, summarise


def test_formats_are_counted_largest_first(tmp_path):
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2, 4), "c": torch.zeros(100, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    summary = summarise(SafetensorsDir(tmp_path))
    assert summary.formats == (
        FormatShare(format="BF16", num_tensors=1, num_parameters=100, num_bytes=200),
        FormatShare(format="F32", num_tensors=2, num_parameters=11, num_bytes=44),
    )
    assert (summary.num_parameters, summary.num_bytes) == (111, 244)
    assert summary.bits_per_parameter == pytest.approx(8 * 244 / 111)


def test_nothing_has_no_bits():
    assert WeightsSummary(()).bits_per_parameter == 0.0


def test_default_model():
    try:
        path = locate(load_catalogue().find("smollm2"))
    except ModelError as error:
        pytest.skip(str(error))
    summary = summarise(GGUFFile(path))
    assert summary.num_parameters == 134_515_008
    assert {share.format: share.num_tensors for share in summary.formats} == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert summary.num_bytes < path.stat().st_size
