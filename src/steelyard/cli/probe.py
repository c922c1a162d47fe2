"""``steelyard probe``: measure this machine once, and keep what was found for everything that predicts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steelyard.cli import profiles
from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import configure_logging, error_console, print_json, write_error_line
from steelyard.cli.probe_tables import machine_tables, reading_tables
from steelyard.core.errors import StorageError
from steelyard.cost.profile import profile_path, profile_table

app = new_app()
_WIDTH = 120  # of tables that no terminal shows

Quick = Annotated[bool, typer.Option("--quick", help="Take some seconds only, with more noise.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Write to this TOML file; its disk is measured.", show_default="the cache directory"),
]


@app.command(epilog=examples("steelyard probe", "steelyard probe --quick", "steelyard probe --output machine.toml"))
@takes_groups
def probe(*, quick: Quick = False, output_file: Output = None, output: OutputOptions) -> None:
    """Measure this machine once, and keep what was found for everything that predicts.

    Memory, caches, arithmetic, threads, links between processes, the disk, GPUs, and the engine's own operators. Every
    number is the best of many short rounds; SPREAD is how far the median round was from it. Run it while nothing else
    does.
    """
    configure_logging()
    path = output_file.absolute() if output_file is not None else profile_path()
    _check_writable(path)
    with _progress(profiles.titles(path.parent)) as note:
        profile = profiles.measure_profile(path.parent, quick=quick, note=note)
    profiles.store_profile(profile, path)
    if output.json:
        print_json({**profile_table(profile), "file": str(path)})
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        for table in (*machine_tables(profile.machine), *reading_tables(profile.readings)):
            console.print(table)
    for text in profile.notes:
        write_error_line(f"note: {text}")
    write_error_line(f"written to {path}")


def _check_writable(path: Path) -> None:
    """Make the directory and find out now, not after half a minute, whether the file can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        # A file without a name, where the file system has them: Ctrl-C cannot leave it behind.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror or error}"
        raise StorageError(problem, field="--output", remedy="Give a file that you may write") from error


@contextmanager
def _progress(names: list[str]) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal; yield what is told of each subject as it begins."""
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(names))

        def note(title: str) -> None:
            bar.update(task, description=title, completed=names.index(title))

        yield note
