"""GGUF files as a source of weights: small ones we write, and the real ones."""

import math
import mmap
import os
import re
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from steelyard.core.errors import ModelError, WeightsError
from steelyard.models.catalogue import load_catalogue, locate
from steelyard.models.weights import gguf as gguf_module
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.gguf_blocks import BLOCK_FORMATS, CHUNK_ELEMENTS
from steelyard.models.weights.source import WeightSource

torch.set_num_threads(1)
KIND = gguf.GGMLQuantizationType
NUMBERS = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def write(path, tensors, metadata=None):
    """Write ``tensors``: name → (numbers, GGML kind)."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, number in (metadata or {}).items():
        writer.add_uint16(key, number)
    for name, (numbers, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def small(tmp_path):
    kinds = (KIND.F32, KIND.F16, KIND.BF16, KIND.Q8_0, KIND.Q4_1, KIND.Q5_0)
    tensors = {kind.name: (NUMBERS, kind) for kind in kinds}
    tensors["vector"] = (NUMBERS[0], KIND.Q8_0)
    tensors["cube"] = (NUMBERS.reshape(3, 2, 64), KIND.Q4_1)
    return write(tmp_path / "small.gguf", tensors)


def stored_values(kind):
    """What reference quantisation and dequantisation leave of NUMBERS, float32."""
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(NUMBERS, kind), kind).astype(np.float32))


def test_is_a_weight_source(small):
    source: WeightSource = GGUFFile(small)
    assert source.names() == {"F32", "F16", "BF16", "Q8_0", "Q4_1", "Q5_0", "vector", "cube"}
    assert source.shape("Q8_0") == (6, 64)
    assert source.shape("cube") == (3, 2, 64)
    assert source.num_bytes("Q8_0") == 6 * 2 * 34
    assert source.num_bytes("F16") == 6 * 64 * 2
    assert [source.format(name) for name in ("BF16", "Q4_1", "vector")] == ["BF16", "Q4_1", "Q8_0"]


@pytest.mark.parametrize("kind", [KIND.F32, KIND.F16, KIND.BF16, KIND.Q8_0, KIND.Q4_1, KIND.Q5_0])
def test_blocks_are_the_stored_bytes(small, kind):
    file = GGUFFile(small)
    found = file.blocks(kind.name)
    expected = gguf.quants.quantize(NUMBERS, kind).view(np.uint8).reshape(6, -1)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    assert np.array_equal(found, expected)
    file.close()
    assert np.array_equal(found, expected)


def test_blocks_view_the_map_and_fold_leading_dimensions(small):
    file = GGUFFile(small)
    assert np.shares_memory(file.blocks("Q8_0"), file.blocks("Q8_0"))
    assert file.blocks("cube").shape == (6, 2 * 20)
    assert file.blocks("vector").shape == (1, 2 * 34)
    with pytest.raises(WeightsError, match="nothing"):
        file.blocks("nothing")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs the system's word on what is in memory")
def test_forgotten_blocks_leave_memory_and_are_there_again(tmp_path):
    numbers = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    file = GGUFFile(write(tmp_path / "large.gguf", {"large": (numbers, KIND.Q8_0)}))
    expected = gguf.quants.quantize(numbers, KIND.Q8_0).view(np.uint8)
    blocks = file.blocks("large")
    assert np.array_equal(blocks.ravel(), expected.ravel())
    held = mapped_bytes("large.gguf")
    file.forget("large")
    assert mapped_bytes("large.gguf") <= held - expected.nbytes + 2 * mmap.PAGESIZE
    assert np.array_equal(blocks.ravel(), expected.ravel())
    with pytest.raises(WeightsError, match="nothing"):
        file.forget("nothing")


def mapped_bytes(name):
    """What of a mapped file is in this process's memory."""
    maps = Path("/proc/self/smaps").read_text().split("VmFlags")
    return sum(1024 * int(re.search(r"Rss: +(\d+)", one)[1]) for one in maps if name in one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [KIND.F32, KIND.F16, KIND.BF16, KIND.Q8_0, KIND.Q4_1, KIND.Q5_0])
def test_tensor_is_rounded_once(small, kind, dtype):
    found = GGUFFile(small).tensor(kind.name, dtype)
    assert (found.shape, found.dtype, found.is_contiguous()) == ((6, 64), dtype, True)
    torch.testing.assert_close(found, stored_values(kind).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["F32", "Q4_1", "cube", "vector"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_a_slice(small, name, dtype):
    file = GGUFFile(small)
    whole = file.tensor(name, dtype)
    for start, stop in [(0, 1), (1, 3), (0, 3), (2, 2), (0, len(whole))]:
        assert torch.equal(file.rows(name, start, stop, dtype), whole[start:stop])


def test_rows_of_a_quantised_vector_may_cut_a_block(small):
    file = GGUFFile(small)
    whole = file.tensor("vector", torch.float32)
    for start, stop in [(5, 9), (31, 33), (40, 64), (0, 32)]:
        found = file.rows("vector", start, stop, torch.float32)
        assert torch.equal(found, whole[start:stop])
        assert found.untyped_storage().nbytes() == 4 * (stop - start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_long_tensors_go_chunk_by_chunk(tmp_path, dtype):
    numbers = np.random.default_rng(1).standard_normal(2 * CHUNK_ELEMENTS + 96).astype(np.float32)
    file = GGUFFile(write(tmp_path / "long.gguf", {"t": (numbers, KIND.Q8_0)}))
    expected = gguf.quants.dequantize(gguf.quants.quantize(numbers, KIND.Q8_0), KIND.Q8_0)
    assert torch.equal(file.tensor("t", dtype), torch.from_numpy(expected).to(dtype))


def test_temporary_memory_is_bounded(tmp_path):
    numbers = np.zeros(16 * CHUNK_ELEMENTS, dtype=np.float32)
    file = GGUFFile(write(tmp_path / "long.gguf", {"t": (numbers, KIND.Q4_1)}))
    tracemalloc.start()
    file.tensor("t", torch.bfloat16)  # torch's own memory, the result, is not traced
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK_ELEMENTS * 4


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_same_dtype_shares_the_map_and_never_writes_the_file(small, name):
    before = small.read_bytes()
    file = GGUFFile(small)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    first, second = file.tensor(name, dtype), file.tensor(name, dtype)
    assert first.data_ptr() == second.data_ptr()
    first.zero_()
    file.close()
    assert small.read_bytes() == before
    assert torch.equal(first, torch.zeros(6, 64, dtype=dtype))


def test_tensors_outlive_the_file(small):
    file = GGUFFile(small)
    kept = file.tensor("F32", torch.float32)
    file.close()
    del file
    assert torch.equal(kept, torch.from_numpy(NUMBERS))


def test_read_only_map_gives_copies(small, monkeypatch):
    real = gguf_module.mmap.mmap

    def no_private_maps(descriptor, length, access):
        if access == gguf_module.mmap.ACCESS_COPY:
            raise OSError(12, "Cannot allocate memory")
        return real(descriptor, length, access=access)

    monkeypatch.setattr(gguf_module.mmap, "mmap", no_private_maps)
    found = GGUFFile(small).tensor("F32", torch.float32)
    found += 1
    assert torch.equal(found, torch.from_numpy(NUMBERS) + 1)


@pytest.mark.parametrize("ask", ["shape", "num_bytes", "format"])
def test_missing_name_is_named(small, ask):
    with pytest.raises(WeightsError) as caught:
        getattr(GGUFFile(small), ask)("blk.9.attn_q.weight")
    assert caught.value.field == "small.gguf[blk.9.attn_q.weight]"
    with pytest.raises(WeightsError, match=r"nothing"):
        GGUFFile(small).tensor("nothing", torch.float32)
    with pytest.raises(WeightsError, match=r"nothing"):
        GGUFFile(small).rows("nothing", 0, 1, torch.float32)


@pytest.mark.parametrize("type_id", [99, 16])
def test_unreadable_format_fails_only_when_read(tmp_path, type_id):
    directory = b""
    for name, kind, offset in (("good", 0, 0), ("odd", type_id, 1024)):
        directory += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, 256, kind, offset)
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + directory
    path = tmp_path / "odd.gguf"
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(1024 + 66))
    with GGUFFile(path) as file:
        assert torch.equal(file.tensor("good", torch.float32), torch.zeros(256))
        assert file.shape("odd") == (256,)
        assert file.num_bytes("odd") == 66
        with pytest.raises(WeightsError) as caught:
            file.tensor("odd", torch.float32)
    assert caught.value.field == "odd.gguf[odd]"
    assert ("type 99" if type_id == 99 else "IQ2_XXS") in caught.value.problem


def test_parts_of_a_split_model_are_refused(tmp_path):
    path = write(tmp_path / "part.gguf", {"t": (NUMBERS, KIND.F32)}, {"split.count": 3})
    with pytest.raises(WeightsError, match="one of 3 parts"):
        GGUFFile(path)
    assert GGUFFile(write(tmp_path / "one.gguf", {"t": (NUMBERS, KIND.F32)}, {"split.count": 1})).names() == {"t"}


def test_paths_that_cannot_be_read(tmp_path):
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for path, problem in (
        (tmp_path / "none.gguf", "No such file"),
        (tmp_path, "no ordinary file"),
        (empty, "is empty"),
        (tmp_path / "nul\0.gguf", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=problem) as caught:
            GGUFFile(path)
        assert caught.value.field == str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(WeightsError, match="no ordinary file"):
        GGUFFile(tmp_path / "pipe.gguf")


# --- real files ------------------------------------------------------------------------------------------------------


def located(name):
    try:
        return locate(load_catalogue().find(name))
    except ModelError as error:
        pytest.skip(str(error))


def assert_equals_reference(path):
    """Compare the whole file with the reference reader: metadata, directory, and every number."""
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    assert ours.names() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert ours.shape(tensor.name) == tuple(int(size) for size in reversed(tensor.shape))
        assert ours.num_bytes(tensor.name) == tensor.n_bytes
        assert ours.format(tensor.name) == tensor.tensor_type.name == BLOCK_FORMATS[tensor.tensor_type].name
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert ours.tensor(tensor.name, torch.float32).numpy().tobytes() == np.ascontiguousarray(expected).tobytes()
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            expected = field.contents()
            assert ours.metadata[key] == (tuple(expected) if isinstance(expected, list) else expected)
    assert len(ours.metadata) == len(theirs.fields) - 3


def test_default_model_equals_the_reference():
    assert_equals_reference(located("smollm2-135m-instruct"))


def test_default_model_has_its_parameters():
    file = GGUFFile(located("smollm2-135m-instruct"))
    assert sum(math.prod(file.shape(name)) for name in file.names()) == 134_515_008
    assert file.shape("token_embd.weight") == (49152, 576)
    assert len(file.metadata["tokenizer.ggml.merges"]) == 48900
    assert file.metadata["general.architecture"] == "llama"


@pytest.mark.peer
def test_gemma_equals_the_reference():
    assert_equals_reference(located("gemma-3-270m"))
