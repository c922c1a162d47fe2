"""How commands speak: results on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from steelyard.core.errors import StorageError

_SLOW_S = 5.0


def use_utf8() -> None:
    """Write UTF-8 whatever the locale says; a model's text must not depend on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def write_text(text: str) -> None:
    """Write text to standard output as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_line(text: str = "") -> None:
    """Write one line to standard output, at once."""
    write_text(text + "\n")


def write_error_line(text: str) -> None:
    """Write one line to standard error: a summary, a notice or an error."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line; numbers that JSON cannot say become ``null``."""
    write_line(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_file(path: Path, text: str) -> None:
    """Write a file that the user asked for, UTF-8.

    Raises:
        StorageError: if it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        problem = f"it cannot be written: {error.strerror or error}"
        raise StorageError(problem, field=str(path), remedy="Give a path that you may write to") from error


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns of text, left-aligned, two spaces apart, without trailing spaces."""
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def configure_logging(level: int = logging.INFO) -> None:
    """Show notices of ``level`` and above on standard error, once however often this is called."""
    logger = logging.getLogger("steelyard")
    for old in [handler for handler in logger.handlers if isinstance(handler, RichHandler)]:
        logger.removeHandler(old)
    logger.addHandler(RichHandler(console=error_console(), show_time=False, show_path=False, rich_tracebacks=False))
    logger.setLevel(level)
    logger.propagate = False


def error_console() -> Console:
    """Return a rich console on the standard error of this moment."""
    return Console(file=sys.stderr, stderr=True, soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error that ``what`` is going on: a spinner on a terminal, else one line if it takes long.

    What the block gets says what is going on by now, on a terminal.
    """
    console = error_console()
    if console.is_terminal:
        with console.status(what) as status:
            yield status.update
        return
    timer = Timer(_SLOW_S, write_error_line, [what + " …"])
    timer.daemon = True
    timer.start()
    try:
        yield lambda now: None
    finally:
        timer.cancel()
