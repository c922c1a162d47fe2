"""Packing: what goes in comes out, from every format, to any row, by either packer."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_samples import random_matrix, random_rows

from steelyard.kernels import packed_matrix as module
from steelyard.kernels.native import native_available
from steelyard.kernels.packed_matrix import (
    PACKED_FORMATS,
    PACKED_FROM,
    HugePageArena,
    PackedMatrix,
    alternating_rows,
    packed_bytes,
)
from steelyard.models.weights.gguf_blocks import BLOCK_FORMATS, dequantise
from steelyard.quant.from_float import QUANTISERS
from steelyard.quant.gguf_integers import decode

KIND = gguf.GGMLQuantizationType
EXACT = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q4_K", "Q5_K"]
REQUANTISED = ["Q2_K", "Q3_K", "Q6_K"]
SHAPE = (21, 512)


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.native, id="native"), pytest.param(False, id="numpy")])
def packer(request, monkeypatch):
    """Run the test with the compiled packer and with NumPy's alone."""
    if request.param and not native_available():
        pytest.skip("the extension is not built")
    if not request.param:
        monkeypatch.setattr(module, "native_kernels", lambda: None)
    return request.param


def random_blocks(name, shape=SHAPE, seed=0):
    """Return rows of blocks with random bytes, but for scales that are random ordinary numbers."""
    block = next(block for block in BLOCK_FORMATS.values() if block.name == name)
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (shape[0], shape[1] // block.num_elements, block.num_bytes), dtype=np.uint8)
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,)}
    for start in halves.get(name, (208,) if name == "Q6_K" else (0,)):
        numbers = generator.standard_normal(data.shape[:2]).astype(np.float16)
        data[..., start : start + 2] = numbers[..., None].view(np.uint8)
    return data.reshape(shape[0], -1)


def numbers_of(data, name):
    """Return what the weights' reader makes of rows of blocks."""
    block = next(block for block in BLOCK_FORMATS.values() if block.name == name)
    out = np.empty(data.size // block.num_bytes * block.num_elements, dtype=np.float32)
    dequantise(np.ascontiguousarray(data).reshape(-1), block, out)
    return torch.from_numpy(out.reshape(len(data), -1))


def in_order(count, start=0):
    return np.arange(start, start + count, dtype=np.int32)


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("name", EXACT)
def test_gguf_formats_lose_nothing(name):
    data = random_blocks(name)
    packed = PackedMatrix.from_gguf([(data, name, in_order(21))])
    assert (packed.format, packed.num_rows, packed.num_inputs) == (PACKED_FROM[name], 21, 512)
    assert packed.num_bytes == packed_bytes(packed.format, 21, 512)
    assert torch.equal(packed.dequantise(), numbers_of(data, name))


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("name", REQUANTISED)
def test_sixteen_wide_formats_are_off_by_half_a_step(name):
    data = random_blocks(name)
    packed = PackedMatrix.from_gguf([(data, name, in_order(21))])
    expected = numbers_of(data, name)
    largest = expected.view(21, -1, 32).abs().amax(dim=-1).repeat_interleave(32, dim=1)
    assert ((packed.dequantise() - expected).abs() <= largest * (0.5 / 127 + 2.0**-11)).all()


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q4_K", "Q5_0"])
def test_rows_go_where_they_are_sent(name):
    data = random_blocks(name, (40, 256))
    rows = np.random.default_rng(1).permutation(70)[:40].astype(np.int32)
    packed = PackedMatrix.from_gguf([(data[:15], name, rows[:15]), (data[15:], name, rows[15:])], num_rows=75)
    expected = torch.zeros(75, 256)
    expected[torch.from_numpy(rows).long()] = numbers_of(data, name)
    assert torch.equal(packed.dequantise(), expected)


@pytest.mark.usefixtures("packer")
def test_parts_of_unlike_formats_lose_nothing_either():
    parts, expected = [], []
    for number, name in enumerate(EXACT):
        data = random_blocks(name, (5, 256), seed=number)
        parts.append((data, name, in_order(5, 5 * number)))
        expected.append(numbers_of(data, name))
    packed = PackedMatrix.from_gguf(parts)
    assert packed.format == "q8_k"
    assert torch.equal(packed.dequantise(), torch.cat(expected))


@pytest.mark.usefixtures("packer")
def test_source_rows_may_be_apart():
    data = random_blocks("Q4_1", (30, 256))
    packed = PackedMatrix.from_gguf([(data[::2], "Q4_1", in_order(15))])
    assert torch.equal(packed.dequantise(), numbers_of(data[::2], "Q4_1"))


@pytest.mark.parametrize("name", [name for name in EXACT if hasattr(KIND, name)])
def test_agrees_with_the_reference_quantiser(name):
    kind = KIND[name]
    numbers = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
    try:
        data = gguf.quants.quantize(numbers, kind)
    except NotImplementedError:
        pytest.skip("the gguf package cannot write it")
    packed = PackedMatrix.from_gguf([(data, name, in_order(8))])
    assert np.array_equal(packed.dequantise().numpy(), gguf.quants.dequantize(data, kind).astype(np.float32))


@pytest.mark.native
@pytest.mark.skipif(not native_available(), reason="the extension is not built")
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q4_K", "Q8_0"])
def test_both_packers_write_the_same_bytes(name, monkeypatch):
    data, rows = random_blocks(name), np.random.default_rng(1).permutation(40)[:21].astype(np.int32)
    native = PackedMatrix.from_gguf([(data, name, rows)])
    monkeypatch.setattr(module, "native_kernels", lambda: None)
    assert torch.equal(native.data, PackedMatrix.from_gguf([(data, name, rows)]).data)


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("format", sorted(PACKED_FORMATS))
@pytest.mark.parametrize(("num_rows", "num_inputs"), [(1, 1), (16, 32), (37, 70)])
def test_chosen_rows(format, num_rows, num_inputs):
    packed = random_matrix(format, num_rows, num_inputs)
    whole = packed.dequantise()
    assert whole.shape == (num_rows, num_inputs)
    indices = torch.tensor([num_rows - 1, 0, num_rows // 2, 0])
    assert torch.equal(packed.rows(indices), whole[indices])
    assert packed.rows(indices[:0]).shape == (0, num_inputs)
    for bad in (-1, num_rows):
        with pytest.raises(IndexError):
            packed.rows(torch.tensor([bad]))


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("format", sorted(PACKED_FORMATS))
def test_dequantise_is_the_formula(format):
    """Against the records read by hand, number by number."""
    packed, kind = random_matrix(format, 20, 50), PACKED_FORMATS[format]
    records = packed.data.numpy().view(kind.record).reshape(2, 2)
    whole = packed.dequantise()
    for row, k in ((0, 0), (5, 3), (15, 16), (16, 31), (19, 49), (7, 20)):
        record, i = records[row // 16, k // 32], k % 32
        byte = record["quants"][i // 4 % kind.bits if kind.bits == 4 else i // 4, row % 16, i % 4]
        quant = byte if kind.bits == 8 else byte >> 4 if i >= 16 else byte & 15
        expected = np.float32(int(quant) - kind.offset) * np.float32(record["scales"][row % 16])
        if kind.minima:
            expected += np.float32(record["minima"][row % 16])
        assert whole[row, k] == expected


@pytest.mark.usefixtures("packer")
@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 50), num_inputs=st.integers(1, 100), quantiser=st.sampled_from(sorted(QUANTISERS)))
def test_from_float_keeps_what_the_quantiser_says(num_rows, num_inputs, quantiser):
    weight = random_rows(num_rows, num_inputs)
    packed = PackedMatrix.from_float(weight, quantiser)
    assert np.array_equal(packed.dequantise().numpy(), QUANTISERS[quantiser](weight).dequantise())


def test_from_float_takes_any_dtype_row_map_and_length():
    weight = random_rows(5000, 1200)
    rows = np.random.default_rng(0).permutation(5000).astype(np.int32)
    packed = PackedMatrix.from_float(weight.double(), "q8", rows)
    expected = torch.empty(5000, 1200)
    expected[torch.from_numpy(rows).long()] = torch.from_numpy(QUANTISERS["q8"](weight).dequantise())
    assert torch.equal(packed.dequantise(), expected)


def test_alternating_rows():
    gate, up = alternating_rows(40)
    assert list(gate[:16]) == list(range(16))
    assert list(up[:16]) == list(range(16, 32))
    assert list(gate[16:32]) == list(range(32, 48))
    assert (gate[39], up[39]) == (71, 87)


def test_arena_gives_aligned_zeros_that_do_not_meet():
    arena = HugePageArena(chunk_bytes=10_000)
    taken = [arena(size) for size in (1, 100, 0, 4000, 30_000, 64, 5000)]
    for number, memory in enumerate(taken):
        assert memory.data_ptr() % 64 == 0 or not len(memory)
        assert (memory == 0).all()
        memory.fill_(number + 1)
    assert [len(memory) for memory in taken] == [1, 100, 0, 4000, 30_000, 64, 5000]
    assert all((memory == number + 1).all() for number, memory in enumerate(taken))


def test_arena_holds_matrices():
    arena, weight = HugePageArena(), random_rows(20, 64)
    packed = [PackedMatrix.from_float(weight, "q8", allocate=arena) for _ in range(2)]
    del arena
    assert torch.equal(packed[0].dequantise(), packed[1].dequantise())
    assert torch.equal(packed[0].dequantise(), PackedMatrix.from_float(weight, "q8").dequantise())


def test_bad_row_maps_and_formats_are_refused():
    data = random_blocks("Q4_1", (4, 256))
    for rows in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, -1]):
        with pytest.raises(ValueError, match="destination"):
            PackedMatrix.from_gguf([(data, "Q4_1", np.array(rows, dtype=np.int32))])
    with pytest.raises(ValueError, match="destinations"):
        PackedMatrix.from_gguf([(data, "Q4_1", in_order(4))], num_rows=3)
    with pytest.raises(ValueError, match="F16"):
        PackedMatrix.from_gguf([(data, "F16", in_order(4))])
    with pytest.raises(ValueError, match="equally long"):
        PackedMatrix.from_gguf([(data, "Q4_1", in_order(4)), (data[:, :20], "Q4_1", in_order(4, 4))])
    with pytest.raises(ValueError, match="whole number"):
        PackedMatrix.from_gguf([(data[:, :30], "Q4_1", in_order(4))])
    with pytest.raises(ValueError, match="q3"):
        PackedMatrix.from_float(torch.zeros(4, 4), "q3")


@pytest.mark.parametrize("name", [*EXACT, *REQUANTISED])
def test_every_format_has_a_place(name):
    blocks = decode(random_blocks(name, (2, 256)), name)
    kind = PACKED_FORMATS[PACKED_FROM[name]]
    assert (blocks.bits, blocks.offset, blocks.minima is not None) == (kind.bits, kind.offset, kind.minima)
