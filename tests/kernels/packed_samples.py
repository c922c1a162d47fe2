"""Random packed matrices for tests of the integer kernels."""

import numpy as np
import torch

from steelyard.kernels.packed_matrix import PACKED_FORMATS, PackedMatrix, packed_bytes, zeros


def records_of(packed):
    return packed.data.numpy().view(PACKED_FORMATS[packed.format].record)


def random_matrix(format, num_rows, num_inputs, seed=0):
    """Return a matrix with every quant, scale and minimum random, those of the padding too."""
    generator = np.random.default_rng(seed)
    packed = PackedMatrix(zeros(packed_bytes(format, num_rows, num_inputs)), format, num_rows, num_inputs)
    records = records_of(packed)
    records["quants"] = generator.integers(0, 256, records["quants"].shape, dtype=np.uint8)
    records["scales"] = generator.standard_normal(records["scales"].shape) * 0.01
    if PACKED_FORMATS[format].minima:
        records["minima"] = generator.standard_normal(records["minima"].shape) * 0.1
    return packed


def magnitudes(packed):
    """Return what the terms of each weight, d·q and m, add up to without their signs, float64."""
    copy = PackedMatrix(zeros(packed.num_bytes), packed.format, packed.num_rows, packed.num_inputs)
    copy.data.copy_(packed.data)
    records = records_of(copy)
    for name in set(records.dtype.names) - {"quants"}:
        records[name] = np.abs(records[name])
    return copy.dequantise().double().abs()


def random_rows(num_rows, num_inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_inputs, generator=generator)
