"""Hugging Face directories as sources of weights, sound and broken."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from steelyard.core.errors import WeightsError
from steelyard.models.weights import safetensors_dir
from steelyard.models.weights.safetensors_dir import INDEX_FILE, SINGLE_FILE, SafetensorsDir
from steelyard.models.weights.source import WeightSource

torch.set_num_threads(1)
TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7,
    "b": torch.arange(6, dtype=torch.float32).bfloat16().reshape(2, 3),
    "c": torch.arange(5, dtype=torch.float32).half(),
    "ids": torch.arange(4),
    "scalar": torch.tensor(2.5),
}


@pytest.fixture
def single(tmp_path):
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": TENSORS["a"], "c": TENSORS["c"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": TENSORS["b"], "extra": TENSORS["c"]}, tmp_path / "model-00002-of-00002.safetensors")
    shards = {"a": 1, "b": 2, "c": 1}
    write_index(tmp_path, {name: f"model-0000{shard}-of-00002.safetensors" for name, shard in shards.items()})
    return tmp_path


def write_index(path, weight_map):
    (path / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        SafetensorsDir(path)
    assert caught.value.field
    assert caught.value.remedy
    return caught.value


def test_single_file(single):
    source: WeightSource = SafetensorsDir(single)
    assert source.names() == set(TENSORS)
    assert [source.shape(name) for name in ("a", "c", "scalar")] == [(4, 3), (5,), ()]
    assert [source.format(name) for name in ("a", "b", "c", "ids")] == ["F32", "BF16", "F16", "I64"]
    assert [source.num_bytes(name) for name in ("a", "b", "c", "ids", "scalar")] == [48, 12, 10, 32, 4]


def test_shards(sharded):
    source = SafetensorsDir(str(sharded))
    assert source.names() == {"a", "b", "c"}
    for name in source.names():
        assert torch.equal(source.tensor(name, TENSORS[name].dtype), TENSORS[name])


def test_single_file_comes_before_an_index(single):
    write_index(single, {"a": "missing.safetensors"})
    assert SafetensorsDir(single).names() == set(TENSORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_dtypes_and_rows(single, name, dtype):
    source = SafetensorsDir(single)
    whole = source.tensor(name, dtype)
    assert torch.equal(whole, TENSORS[name].to(dtype))
    assert whole.is_contiguous()
    for start, stop in [(0, 2), (1, 2), (1, 1), (0, len(whole))]:
        found = source.rows(name, start, stop, dtype)
        assert torch.equal(found, whole[start:stop])
        assert found.dtype == dtype


def test_writing_to_a_result_never_writes_the_file(single):
    before = (single / SINGLE_FILE).read_bytes()
    source = SafetensorsDir(single)
    found = source.tensor("a", torch.float32)
    source.close()
    found.zero_()
    assert not found.any()
    assert (single / SINGLE_FILE).read_bytes() == before


def test_missing_name_is_named(single):
    source = SafetensorsDir(single)
    calls = [source.shape, source.num_bytes, source.format, lambda name: source.tensor(name, torch.float32)]
    for call in [*calls, lambda name: source.rows(name, 0, 1, torch.float32)]:
        with pytest.raises(WeightsError) as caught:
            call("lm_head.weight")
        assert "[lm_head.weight]" in caught.value.field


def test_integers_are_no_weights(single):
    with pytest.raises(WeightsError, match="I64"):
        SafetensorsDir(single).tensor("ids", torch.float32)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_pickles_are_refused(tmp_path, file):
    (tmp_path / file).write_bytes(b"\x80\x04.")
    error = refusal(tmp_path)
    assert file in error.problem
    assert "pickle" in error.problem
    assert "safetensors" in error.remedy


def test_nothing_there(tmp_path):
    assert "neither" in refusal(tmp_path).problem
    assert "no such directory" in refusal(tmp_path / "none").problem


@pytest.mark.parametrize(
    "name",
    ["../up.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "x\0.safetensors", "..", "", "x.bin", "\nx.safetensors"],
)  # fmt: skip
def test_shard_names_stay_in_the_directory(tmp_path, name):
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    for folder in (tmp_path, inner, inner / "sub"):
        save_file({"a": TENSORS["a"]}, folder / "x.safetensors")
        save_file({"a": TENSORS["a"]}, folder / "up.safetensors")
    write_index(inner, {"a": name})
    assert refusal(inner).field == INDEX_FILE


def test_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert refusal(sharded).field == "model-00002-of-00002.safetensors"


def test_tensor_missing_in_its_shard(sharded):
    write_index(sharded, {"a": "model-00002-of-00002.safetensors"})
    assert refusal(sharded).field == "model-00002-of-00002.safetensors[a]"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe\xfa", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}',
     b"[" * 100_000, b'{"weights": {}}'],
    ids=["empty", "cut", "list", "binary", "not a table", "empty table", "number", "deep", "no table"],
)  # fmt: skip
def test_broken_index(tmp_path, content):
    (tmp_path / INDEX_FILE).write_bytes(content)
    assert refusal(tmp_path).field == INDEX_FILE


def test_index_has_a_size_limit(sharded, monkeypatch):
    monkeypatch.setattr(safetensors_dir, "MAX_INDEX_BYTES", 10)
    assert "over the limit" in refusal(sharded).problem


def test_truncation_anywhere_is_refused(single):
    whole = (single / SINGLE_FILE).read_bytes()
    for length in range(0, len(whole), 3):
        (single / SINGLE_FILE).write_bytes(whole[:length])
        assert refusal(single).field == SINGLE_FILE


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_headers_are_read_or_refused(tmp_path, data):
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    content = bytearray((tmp_path / SINGLE_FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / SINGLE_FILE).write_bytes(content)
    try:
        source = SafetensorsDir(tmp_path)
        for name in source.names():
            assert source.num_bytes(name) <= len(content)
            if source.format(name) in safetensors_dir.READABLE_FORMATS:
                assert source.tensor(name, torch.float32).shape == source.shape(name)
    except WeightsError:
        pass
