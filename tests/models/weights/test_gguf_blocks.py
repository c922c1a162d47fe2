"""Dequantisation equals ggml's Python reference bit for bit, in every readable format."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.models.weights import gguf_blocks
from steelyard.models.weights.gguf_blocks import BLOCK_FORMATS, CHUNK_ELEMENTS, READABLE_FORMATS, dequantise

TYPES = {block.name: type_id for type_id, block in BLOCK_FORMATS.items()}
PLAIN = {"F32": np.float32, "F16": np.float16}
QUANTISED = [name for name in READABLE_FORMATS if name not in ("F64", *PLAIN)]
REQUIRED = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"} | {f"Q{n}_K" for n in range(2, 7)}
# Byte positions of the float16 scales and minima in a block, from ggml's structure definitions.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "BF16": (),
}  # fmt: skip


def random_blocks(name, num_blocks, seed):
    """Random bytes, with finite scales: the reference's NaNs differ from ours in their sign only, and by machine."""
    generator = np.random.default_rng(seed)
    block = BLOCK_FORMATS[TYPES[name]]
    blocks = generator.integers(0, 256, (num_blocks, block.num_bytes), dtype=np.uint8)
    for position in SCALES[name]:
        scales = generator.standard_normal(num_blocks).astype("<f2") * generator.choice([1e-4, 1, 500])
        blocks[:, position : position + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    return blocks.reshape(-1)


def ours(name, data):
    block = BLOCK_FORMATS[TYPES[name]]
    out = np.full(len(data) // block.num_bytes * block.num_elements, np.nan, dtype=np.float32)
    dequantise(data, block, out)
    return out


def reference(name, data):
    kind = gguf.GGMLQuantizationType(TYPES[name])
    stored = data.view(PLAIN[name]) if name in PLAIN else data
    return gguf.quants.dequantize(stored, kind).reshape(-1).astype(np.float32)


def test_table_agrees_with_gguf():
    for type_id, block in BLOCK_FORMATS.items():
        kind = gguf.GGMLQuantizationType(type_id)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (block.name, (block.num_elements, block.num_bytes))


def test_all_required_formats_are_readable():
    assert set(READABLE_FORMATS) >= REQUIRED


@pytest.mark.parametrize("name", QUANTISED)
@settings(max_examples=25, deadline=None)
@given(num_blocks=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_random_blocks_are_bit_exact(name, num_blocks, seed):
    data = random_blocks(name, num_blocks, seed)
    np.testing.assert_array_equal(ours(name, data).view(np.uint32), reference(name, data).view(np.uint32))


@pytest.mark.parametrize("name", QUANTISED)
def test_many_chunks_are_bit_exact(name):
    block = BLOCK_FORMATS[TYPES[name]]
    data = random_blocks(name, 2 * CHUNK_ELEMENTS // block.num_elements + 3, seed=7)
    np.testing.assert_array_equal(ours(name, data).view(np.uint32), reference(name, data).view(np.uint32))


@pytest.mark.parametrize(("name", "stored"), [("F32", np.float32), ("F16", np.float16), ("F64", np.float64)])
def test_plain_numbers(name, stored):
    numbers = np.array([0.0, -0.0, 1.5, -2.25, 65504.0, 6e-8, np.inf, -np.inf, np.nan], dtype=stored)
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float32)
    np.testing.assert_array_equal(ours(name, numbers.view(np.uint8)), expected)


def test_every_half_precision_number_is_exact():
    bits = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(ours("F16", bits.view(np.uint8)), bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(ours("BF16", bits.view(np.uint8)).view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("name", [name for name in QUANTISED if SCALES[name]])
def test_non_finite_scales_give_numbers_not_warnings(name):
    data = random_blocks(name, 2, seed=3).reshape(2, -1)
    for position in SCALES[name]:
        data[:, position : position + 2] = np.array([np.inf], dtype="<f2").view(np.uint8)
    with np.errstate(all="raise"):
        found = ours(name, data.reshape(-1))
    assert not np.isfinite(found).all()


def test_unaligned_bytes_are_read():
    data = random_blocks("Q6_K", 3, seed=1)
    shifted = np.concatenate((np.zeros(1, np.uint8), data))[1:]
    np.testing.assert_array_equal(ours("Q6_K", shifted), ours("Q6_K", data))


def test_input_is_left_alone():
    data = random_blocks("Q5_K", 4, seed=2)
    before = data.copy()
    ours("Q5_K", data)
    np.testing.assert_array_equal(data, before)


def test_known_by_size_only_has_no_expander():
    by_size = [block.name for block in BLOCK_FORMATS.values() if block.expand is None]
    assert "IQ2_XXS" in by_size
    assert not set(by_size) & set(gguf_blocks.READABLE_FORMATS)
