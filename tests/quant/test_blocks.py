"""Integer blocks: what they stand for."""

import numpy as np

from steelyard.quant.blocks import IntegerBlocks


def make(**changes):
    quants = np.arange(64, dtype=np.uint8).reshape(1, 2, 32)
    scales = np.array([[0.5, -2.0]], dtype=np.float32)
    fields = {"quants": quants, "scales": scales, "minima": None, "offset": 128, "bits": 8, "exact_halves": True}
    return IntegerBlocks(**{**fields, "num_inputs": 40, **changes})


def test_an_offset_is_subtracted():
    expected = [(q - 128) * (0.5 if q < 32 else -2.0) for q in range(40)]
    assert make().dequantise().tolist() == [expected]


def test_a_minimum_is_added():
    minima = np.array([[1.0, 0.25]], dtype=np.float32)
    expected = [q * 0.5 + 1.0 if q < 32 else q * -2.0 + 0.25 for q in range(40)]
    assert make(offset=0, minima=minima).dequantise().tolist() == [expected]


def test_an_offset_can_become_minima():
    symmetric = make()
    assert np.array_equal(symmetric.with_minima().dequantise(), symmetric.dequantise())
    assert symmetric.with_minima().offset == 0
