"""Texts that users give: as an argument, on standard input, or in a file. Always strict UTF-8, never guessed."""

from __future__ import annotations

import sys
from pathlib import Path

from steelyard.core.errors import InputError, PromptError, StorageError

STDIN = "-"


def given_text(argument: str | None, *, field: str) -> str:
    """Return the argument, or all of standard input if it is ``-`` or absent and something is piped in.

    One line break at the end of standard input is left out: it is the pipe's, not the text's.

    Raises:
        PromptError: if there is no text, it is empty, or it is not UTF-8.
    """
    if argument is None and sys.stdin.isatty():
        raise PromptError("none was given", field=field, remedy="Give it as an argument, or pipe it in")
    text = _read_stdin(field) if argument in (None, STDIN) else _checked(argument, field)
    if not text:
        raise PromptError("it is empty", field=field, remedy="Give at least one character")
    return text


def decode_utf8(data: bytes, *, field: str) -> str:
    """Return the text of strict UTF-8 bytes, or raise :class:`PromptError` that says where they go wrong."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
        raise PromptError(problem, field=field, remedy="Convert the text to UTF-8") from None


def file_text(path: Path, *, field: str) -> str:
    """Return a file's text.

    Raises:
        InputError: if there is no such file, or it is a directory.
        StorageError: if it cannot be read.
        PromptError: if it is empty or not UTF-8.
    """
    if not path.is_file():
        problem = f"{path} is a directory" if path.is_dir() else f"there is no file {path}"
        raise InputError(problem, field=field, remedy="Check the path")
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
        raise StorageError(problem, field=field, remedy="Check the permission to read it") from error
    text = decode_utf8(data, field=field)
    if not text:
        raise PromptError(f"{path} is empty", field=field, remedy="Give a file with text")
    return text


def _read_stdin(field: str) -> str:
    text = decode_utf8(sys.stdin.buffer.read(), field=field)
    return text.removesuffix("\n").removesuffix("\r")


def _checked(argument: str | None, field: str) -> str:
    """Return an argument of the command line; its bytes that were no UTF-8 came as lone surrogates."""
    assert argument is not None
    return decode_utf8(argument.encode("utf-8", "surrogateescape"), field=field)
