"""Models on the Hugging Face hub: :func:`fetch`.

Imported on demand, because most starts need no hub and its client takes long to import.
"""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from steelyard.core.errors import ModelError, SteelyardError, StorageError
from steelyard.models.catalogue import load_catalogue

# What is fetched from the hub: data only, no pickles and no code.
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")
HUB_FILES_LEFT = ("*/*", "consolidated*")  # folders and second copies of the weights, in other layouts


def fetch(hub_id: str, revision: str | None) -> Path:
    """Return the directory of a model's files, fetched now unless the hub's own cache has them.

    Raises:
        ModelError: if there is none of this id or revision, it is gated, or the hub cannot be reached.
        StorageError: if the disk is full.
    """
    try:
        found = snapshot_download(
            hub_id, revision=revision, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_FILES_LEFT)
        )
    except Exception as error:  # the client lets its HTTP library's errors through, and has changed that library
        raise _hub_error(error, hub_id, revision) from error
    return Path(found)


def _hub_error(error: Exception, hub_id: str, revision: str | None) -> SteelyardError:
    """Return our error for one of the hub client's."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "Free some space, or set HF_HOME to a directory on another disk"
        return StorageError("the disk is full", field=hub_id, remedy=remedy)
    if isinstance(error, GatedRepoError):
        remedy = "Accept its licence on the hub and log in with: hf auth login"
        return ModelError("the model is gated", field=hub_id, remedy=remedy)
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{hub_id} has no such revision", field=str(revision), remedy="Check it on the hub")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        remedy = f"Check the spelling, and log in if it is private{_local_copy(hub_id)}"
        return ModelError("the hub has no model of this id", field=hub_id, remedy=remedy)
    remedy = f"Check the connection (and HF_HUB_OFFLINE), or give a path to a copy of the model{_local_copy(hub_id)}"
    return ModelError("the hub cannot be reached, and the model is not in its cache", field=hub_id, remedy=remedy)


def _local_copy(hub_id: str) -> str:
    """Return advice to use the catalogue, if it has the same model."""
    names = [entry.name for entry in load_catalogue().entries if entry.hub_id == hub_id]
    return f", or use {names[0]}, which is the same model in a package" if names else ""
