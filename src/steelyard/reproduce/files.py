"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from steelyard.core.errors import StorageError


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, making its directory; a reader sees the old file or the new, never a part.

    Raises:
        StorageError: if the disk is full or the path cannot be written; an old file is then untouched.
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` as :func:`write_text_atomically` does.

    Raises:
        StorageError: if the disk is full or the path cannot be written; an old file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            field=str(path),
            remedy="Make room or give a directory that you may write to",
        ) from error


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
