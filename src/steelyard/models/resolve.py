"""From what a user calls a model to files on this machine: :func:`resolve_model` and :func:`open_weights`.

A reference is a name in the catalogue, a GGUF file, a Hugging Face directory, or the id of a model on the Hugging Face
hub, tried in that order. Left out: reading configurations and tokenizers.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path

from steelyard.core.errors import ModelError
from steelyard.models.catalogue import load_catalogue, locate
from steelyard.models.generation import GenerationDefaults
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.gguf_header import MAGIC, printable
from steelyard.models.weights.safetensors_dir import SafetensorsDir
from steelyard.models.weights.source import WeightSource

CONFIG_FILE = "config.json"
GGUF_SUFFIX = ".gguf"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PATH_START = (".", "~", "/")
_NUM_GUESSES = 3
_GUESS_CUTOFF = 0.5


class ModelKind(Enum):
    """How a model is stored."""

    GGUF = "gguf"
    HF_DIR = "hf_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model that is on this machine.

    Attributes:
        name: what to call it: the catalogue's name, the hub id, or the file's or directory's own name.
        kind: how it is stored.
        path: a ``.gguf`` file or a Hugging Face directory.
        recommended: sampling that the catalogue recommends, if it does.
    """

    name: str
    kind: ModelKind
    path: Path
    recommended: GenerationDefaults | None = None


def resolve_model(ref: str | Path, *, revision: str | None = None) -> ResolvedModel:
    """Find a model, fetching it from the hub if it is a hub id.

    Args:
        ref: a catalogue name or alias, a path (always, if it is a ``Path``), or a hub id ``org/name``. A path that
            exists comes before a hub id; write ``./name`` for a path that is also a catalogue name.
        revision: branch, tag or commit, for hub ids only.

    Raises:
        ModelError: if nothing is found, or what is found is no model; the remedy says what can be done.
        StorageError: if the model cannot be written to a cache.
    """
    text = str(ref)
    is_path = isinstance(ref, Path) or text.startswith(_PATH_START) or text.endswith(GGUF_SUFFIX)
    if not is_path and (entry := load_catalogue().find(text)):
        _refuse_revision(revision)
        return ResolvedModel(name=entry.name, kind=ModelKind.GGUF, path=locate(entry), recommended=entry.recommended)
    if is_path or (text and os.path.exists(text)):
        _refuse_revision(revision)
        return _from_path(Path(os.path.expanduser(text)), printable(text))
    if _HUB_ID.fullmatch(text):
        return _from_hub(text, revision)
    raise _unknown(text)


def open_weights(resolved: ResolvedModel) -> WeightSource:
    """Open a model's weights.

    Raises:
        WeightsError: if they are missing, truncated or corrupt.
    """
    return GGUFFile(resolved.path) if resolved.kind is ModelKind.GGUF else SafetensorsDir(resolved.path)


def _refuse_revision(revision: str | None) -> None:
    if revision is not None:
        problem = "a revision means something for hub ids only"
        raise ModelError(problem, field="revision", remedy="Leave it out, or give a hub id such as org/name")


def _unknown(text: str) -> ModelError:
    """Return the error for a name that is nothing we know, with what it may have meant."""
    names = [name for entry in load_catalogue().entries for name in (entry.name, *entry.aliases)]
    near = difflib.get_close_matches(text.lower(), names, _NUM_GUESSES, _GUESS_CUTOFF)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    remedy = f"{guess}Known models: {_known_models()}. Or give a .gguf file, a directory, or a hub id such as org/name"
    return ModelError("no model is known by this name", field=printable(text) or "model", remedy=remedy)


def _known_models() -> str:
    return ", ".join(entry.name for entry in load_catalogue().entries)


# --- paths -----------------------------------------------------------------------------------------------------------


def _from_path(path: Path, ref: str) -> ResolvedModel:
    """Resolve a file or directory; ``ref`` is what errors call it."""
    if os.path.isdir(path):
        _check_directory(path, ref)
        return ResolvedModel(name=path.resolve().name, kind=ModelKind.HF_DIR, path=path)
    if not os.path.exists(path):
        remedy = f"Check the path, or give one of: {_known_models()}"
        raise ModelError("there is no such file or directory", field=ref, remedy=remedy)
    _check_gguf(path, ref)
    return ResolvedModel(name=path.stem, kind=ModelKind.GGUF, path=path)


def _check_directory(path: Path, ref: str) -> None:
    """Raise unless the directory has a configuration."""
    if os.path.isfile(path / CONFIG_FILE):
        return
    files = _listing(path, ref)
    if not files:
        raise ModelError("the directory is empty", field=ref, remedy="Check the path, or download the model again")
    ggufs = [file for file in files if file.endswith(GGUF_SUFFIX)]
    remedy = f"Give the file itself: {ggufs[0]}" if ggufs else "Give a directory in the Hugging Face layout"
    raise ModelError(f"the directory has no {CONFIG_FILE}", field=ref, remedy=remedy)


def _listing(path: Path, ref: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        problem = f"the directory cannot be read: {error.strerror}"
        raise ModelError(problem, field=ref, remedy="Check the permission to read it") from error


def _check_gguf(path: Path, ref: str) -> None:
    """Raise unless the file begins like a GGUF file; the reader checks the rest."""
    if not path.is_file():
        raise ModelError("this is no ordinary file", field=ref, remedy="Give a .gguf file or a directory")
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        problem = f"the file cannot be read: {error.strerror}"
        raise ModelError(problem, field=ref, remedy="Check the permission to read it") from error
    if not magic:
        raise ModelError("the file is empty", field=ref, remedy="Download it again")
    if magic != MAGIC:
        remedy = "Give a .gguf file, or the directory that holds config.json and the safetensors"
        raise ModelError("the file is no GGUF file", field=ref, remedy=remedy)


# --- the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(hub_id: str, revision: str | None) -> ResolvedModel:
    """Fetch a model, or find it in the hub's own cache."""
    hub = import_module("steelyard.models.hub")  # with its HTTP library, a tenth of a second
    path: Path = hub.fetch(hub_id, revision)
    _check_directory(path, hub_id)
    return ResolvedModel(name=hub_id, kind=ModelKind.HF_DIR, path=path)
