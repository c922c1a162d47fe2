"""Resolving what users call a model."""

import errno
import os
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from steelyard.core.errors import ModelError, StorageError, WeightsError
from steelyard.models import hub as hub_module
from steelyard.models import resolve as resolve_module
from steelyard.models.catalogue import load_catalogue, locate
from steelyard.models.resolve import ModelKind, ResolvedModel, open_weights, resolve_model
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.safetensors_dir import SafetensorsDir

torch.set_num_threads(1)
EMPTY_GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub_module, "snapshot_download", refuse)


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"w": torch.ones(2, 2)}, path / "model.safetensors")
    return path


@pytest.fixture
def gguf_file(tmp_path):
    path = tmp_path / "tiny.Q4_0.gguf"
    path.write_bytes(EMPTY_GGUF)
    return path


def refusal(ref, kind=ModelError, **kwargs):
    with pytest.raises(kind) as caught:
        resolve_model(ref, **kwargs)
    assert caught.value.remedy
    return caught.value


def hub_raises(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub_module, "snapshot_download", fail)


# --- names and paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["smollm2", "SmolLM2-135M-Instruct"])
def test_catalogue_name(ref):
    entry = load_catalogue().find("smollm2")
    try:
        path = locate(entry)
    except ModelError as error:
        pytest.skip(str(error))
    assert resolve_model(ref) == ResolvedModel(
        name="smollm2-135m-instruct", kind=ModelKind.GGUF, path=path, recommended=entry.recommended
    )


@pytest.mark.parametrize("as_ref", [str, Path])
def test_gguf_file(gguf_file, as_ref):
    expected = ResolvedModel(name="tiny.Q4_0", kind=ModelKind.GGUF, path=gguf_file)
    assert resolve_model(as_ref(gguf_file)) == expected


@pytest.mark.parametrize("as_ref", [str, Path])
def test_directory(directory, as_ref):
    assert resolve_model(as_ref(directory)) == ResolvedModel(name="model", kind=ModelKind.HF_DIR, path=directory)


def test_relative_paths_and_home(directory, gguf_file, monkeypatch):
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    assert resolve_model("model").kind is ModelKind.HF_DIR
    assert resolve_model("./model").kind is ModelKind.HF_DIR
    assert resolve_model("~/tiny.Q4_0.gguf").path == gguf_file
    monkeypatch.chdir(directory)
    assert resolve_model(".").name == "model"


def test_an_existing_path_comes_before_the_hub(tmp_path, directory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    directory.rename(tmp_path / "org" / "model")
    assert resolve_model("org/model").kind is ModelKind.HF_DIR


def test_the_catalogue_comes_before_a_path_of_the_same_name(directory, monkeypatch):
    monkeypatch.chdir(directory.parent)
    directory.rename(directory.parent / "smollm2")
    monkeypatch.setattr(resolve_module, "locate", lambda entry: Path("found"))
    assert resolve_model("smollm2").path == Path("found")
    assert resolve_model("./smollm2").kind is ModelKind.HF_DIR
    assert resolve_model(Path("smollm2")).kind is ModelKind.HF_DIR


@pytest.mark.parametrize(("ref", "guess"), [("smolm2", "smollm2"), ("gemma-3", "gemma-3-270m"), ("GEMA3", "gemma3")])
def test_unknown_name_suggests_near_ones(ref, guess):
    error = refusal(ref)
    assert error.field == ref
    assert f"Did you mean {guess}" in error.remedy or f" or {guess}" in error.remedy
    assert "smollm2-135m-instruct, gemma-3-270m" in error.remedy


@pytest.mark.parametrize("ref", ["", "zzzzzz", "a b", "nul\0", "\x1b[31m", "a/b/c", "x" * 5000])
def test_unknown_names_are_refused_whatever_they_are(ref):
    error = refusal(ref)
    assert "Did you mean" not in error.remedy
    assert "Known models" in error.remedy
    assert error.field.isprintable()
    assert 0 < len(error.field) < 100


def test_each_wrong_path_has_its_own_message(tmp_path, directory):
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "other.gguf").write_bytes(b"PK\3\4")
    (tmp_path / "void").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "notes.txt").touch()
    problems = {
        tmp_path / "none.gguf": "no such file or directory",
        tmp_path / "empty.gguf": "the file is empty",
        tmp_path / "other.gguf": "no GGUF file",
        directory / "model.safetensors": "no GGUF file",
        tmp_path / "void": "the directory is empty",
        tmp_path / "bare": "no config.json",
        Path("nul\0.gguf"): "no such file or directory",
    }
    for path, problem in problems.items():
        assert problem in refusal(path).problem
        assert problem in refusal(f"{path}" if path.is_absolute() else f"./{path}").problem


def test_directory_with_only_a_gguf_file_says_so(tmp_path):
    (tmp_path / "b.gguf").write_bytes(EMPTY_GGUF)
    assert "b.gguf" in refusal(tmp_path).remedy


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no ordinary file" in refusal(tmp_path / "pipe.gguf").problem


def test_revision_is_for_hub_ids(gguf_file, directory):
    for ref in (gguf_file, directory, "smollm2"):
        assert refusal(ref, revision="main").field == "revision"


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_hub_id_is_fetched_without_pickles_or_code(directory, monkeypatch):
    asked = {}

    def fetch(repo, **kwargs):
        asked.update(kwargs, repo=repo)
        return str(directory)

    monkeypatch.setattr(hub_module, "snapshot_download", fetch)
    found = resolve_model("org/name-1.5", revision="v2")
    assert found == ResolvedModel(name="org/name-1.5", kind=ModelKind.HF_DIR, path=directory)
    assert (asked["repo"], asked["revision"]) == ("org/name-1.5", "v2")
    files = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "tokenizer.model",
             "chat_template.jinja", "pytorch_model.bin", "modeling.py", "model.pt", "onnx/model.json",
             "consolidated.safetensors", "merges.txt"]  # fmt: skip
    kept = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == [*files[:5], "merges.txt"]


def test_hub_model_without_configuration(tmp_path, monkeypatch):
    (tmp_path / "README.json").touch()
    monkeypatch.setattr(hub_module, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    assert refusal("org/name").field == "org/name"


def http_error(kind):
    """An error of the client's as it would raise it, without a server."""
    error = kind.__new__(kind)
    Exception.__init__(error, "message")
    return error


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (errors.GatedRepoError, "gated"),
        (errors.RepositoryNotFoundError, "no model of this id"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.HFValidationError, "no model of this id"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.OfflineModeIsEnabled, "cannot be reached"),
        (ConnectionError, "cannot be reached"),
        (RuntimeError, "cannot be reached"),
    ],
)
def test_hub_errors_become_ours(monkeypatch, kind, problem):
    hub_raises(monkeypatch, http_error(kind))
    error = refusal("org/name", revision="v9")
    assert problem in error.problem
    assert error.field == ("v9" if kind is errors.RevisionNotFoundError else "org/name")


def test_full_disk_while_fetching(monkeypatch):
    hub_raises(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert "HF_HOME" in refusal("org/name", StorageError).remedy


def test_offline_hub_id_of_a_catalogue_model_points_to_it(monkeypatch):
    hub_raises(monkeypatch, errors.OfflineModeIsEnabled())
    assert "use smollm2-135m-instruct" in refusal("HuggingFaceTB/SmolLM2-135M-Instruct").remedy


def test_the_real_client_offline(monkeypatch, tmp_path):
    """Nothing is mocked but the offline switch and the place of the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub_module, "snapshot_download", huggingface_hub.snapshot_download)
    assert "cannot be reached" in refusal("org/name").problem
    assert "no model of this id" in refusal("org/na--me").problem


# --- opening ---------------------------------------------------------------------------------------------------------


def test_open_weights(directory, gguf_file):
    source = open_weights(resolve_model(directory))
    assert isinstance(source, SafetensorsDir)
    assert torch.equal(source.tensor("w", torch.float32), torch.ones(2, 2))
    assert isinstance(open_weights(resolve_model(gguf_file)), GGUFFile)


def test_open_weights_of_a_broken_file(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(EMPTY_GGUF[:10])
    with pytest.raises(WeightsError):
        open_weights(resolve_model(tmp_path / "bad.gguf"))
