"""Files of batches on the disk: one directory, names of our own making, and either the whole file or none."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from steelyard.core.errors import StorageError

_ID = re.compile(r"file-[A-Za-z0-9-]{1,70}")
_UNFINISHED = ".part"


class FileRoom:
    """A directory of files.

    Args:
        root: the directory, which is made if it is not there.

    Raises:
        StorageError: if it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            remedy = "Give a path that you may write to"
            raise StorageError(f"{root} cannot be made: {error.strerror}", field="batch_files", remedy=remedy) from None

    def path(self, id: str) -> Path:
        """Return where a file lies."""
        assert _ID.fullmatch(id), "names of files are made here"
        return self._root / id

    def write(self, id: str, pieces: Iterable[bytes]) -> int:
        """Write a file whole, or not at all, and return its size in bytes; it is on the disk then."""
        return write_atomically(self.path(id), pieces)

    def delete(self, id: str) -> None:
        """Remove a file, if it is there."""
        self.path(id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Remove what a process that died left behind: files in the making, and those that nobody was told of."""
        for path in self._root.iterdir():
            if path.name.endswith(_UNFINISHED) or (_ID.fullmatch(path.name) and path.name not in known):
                path.unlink(missing_ok=True)


def write_atomically(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a file whole, in place of one that may be there, or not at all; return its size in bytes.

    Raises:
        StorageError: if it cannot be written.
    """
    try:
        with _replacing(path) as file:
            return sum(file.write(piece) for piece in pieces)
    except OSError as error:
        problem = f"it cannot be written: {error.strerror or error}"
        raise StorageError(problem, field=str(path), remedy="Make room on the disk, or check permissions") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(path.name + _UNFINISHED)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the name, too
    finally:
        os.close(directory)
