"""GGUF's blocks as integers, against the weights' reader."""

import numpy as np
import pytest

from steelyard.models.weights.gguf_blocks import BLOCK_FORMATS, dequantise
from steelyard.quant.gguf_integers import DECODERS, decode

REQUANTISED = {"Q2_K", "Q3_K", "Q6_K"}
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}
LATE_HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}


def random_blocks(name):
    """Return four rows of 512 numbers: random bytes, but for scales, which are ordinary numbers."""
    block = next(block for block in BLOCK_FORMATS.values() if block.name == name)
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (4, 512 // block.num_elements, block.num_bytes), dtype=np.uint8)
    for start in {**HALVES, **LATE_HALVES}.get(name, (0,)):
        numbers = generator.standard_normal(data.shape[:2]).astype(np.float16)
        data[..., start : start + 2] = numbers[..., None].view(np.uint8)
    expected = np.empty(4 * 512, dtype=np.float32)
    dequantise(data.reshape(-1), block, expected)
    return data.reshape(4, -1), expected.reshape(4, 512)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_agrees_with_the_reader(name):
    data, expected = random_blocks(name)
    blocks = decode(data, name)
    found = blocks.dequantise()
    if name not in REQUANTISED:
        assert np.array_equal(found, expected)
        return
    largest = np.abs(expected).reshape(4, -1, 32).max(axis=-1).repeat(32, axis=1)
    assert (np.abs(found - expected) <= largest * (0.5 / 127 + 2.0**-11)).all()
    assert np.abs(found - expected).max() > 0


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_halves_are_exact_where_promised(name):
    blocks = decode(random_blocks(name)[0], name)
    factors = [blocks.scales] if blocks.minima is None else [blocks.scales, blocks.minima]
    if blocks.exact_halves:
        assert all(np.array_equal(numbers, numbers.astype(np.float16)) for numbers in factors)
    assert blocks.quants.max() < 1 << blocks.bits


def test_unknown_formats_and_torn_rows_are_refused():
    with pytest.raises(ValueError, match="Q4_1"):
        decode(np.zeros((1, 32), dtype=np.uint8), "F32")
    with pytest.raises(ValueError, match="whole number"):
        decode(np.zeros((1, 33), dtype=np.uint8), "Q8_0")


def test_no_rows():
    assert decode(np.zeros((0, 34), dtype=np.uint8), "Q8_0").dequantise().shape == (0, 32)
