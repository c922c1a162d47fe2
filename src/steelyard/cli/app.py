"""All commands by name, and how one is found and run. A command's module is imported only when it is asked for."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from steelyard import __version__
from steelyard.cli.errors import guarded
from steelyard.cli.interrupts import leave_on_interrupt, raise_on_interrupt
from steelyard.cli.output import use_utf8, write_line
from steelyard.core.garbage import paused_collection

PROGRAM = "steelyard"


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command is and what the list of commands says of it."""

    module: str
    summary: str


COMMANDS = {
    "run": CommandEntry("steelyard.cli.run", "Answer one prompt."),
    "chat": CommandEntry("steelyard.cli.chat", "Talk with a model, turn by turn."),
    "serve": CommandEntry("steelyard.cli.serve", "Serve models over HTTP, as OpenAI's clients expect it."),
    "batch": CommandEntry("steelyard.cli.batch", "Answer a file of requests, whatever happens in between."),
    "models": CommandEntry("steelyard.cli.models", "List the models known by name."),
    "tokenize": CommandEntry("steelyard.cli.tokenize", "Show the tokens of a text, or the text of tokens."),
    "probe": CommandEntry("steelyard.cli.probe", "Measure this machine, and keep what was found."),
    "fit": CommandEntry("steelyard.cli.fit", "Say whether a model fits this machine, before loading it."),
    "hardware": CommandEntry("steelyard.cli.hardware", "List and show devices, links and machines by name."),
    "simulate": CommandEntry("steelyard.cli.simulate", "Let a trace's requests meet a modelled cluster."),
    "bench": CommandEntry("steelyard.cli.bench", "Measure latency, throughput, prefill or startup."),
    "perplexity": CommandEntry("steelyard.cli.perplexity", "Measure how well a model predicts a text."),
    "reproduce": CommandEntry("steelyard.cli.reproduce", "Redo the experiments of the systems built in."),
    "version": CommandEntry("steelyard.cli.version", "Show the versions of Steelyard and what it stands on."),
}


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return the exit code."""
    use_utf8()
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return guarded(lambda: _dispatch(arguments), as_json="--json" in own, debug="--debug" in own)


def _dispatch(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in COMMANDS:
        with paused_collection():
            app: typer.Typer = importlib.import_module(COMMANDS[name].module).app
        gc.freeze()  # what was imported stays, and need not be gone through again while the command runs
        _invoke(app, f"{PROGRAM} {name}", arguments[1:])
    else:
        _invoke(_overview(), PROGRAM, arguments or ["--help"])


def _invoke(app: typer.Typer, name: str, arguments: Sequence[str]) -> None:
    """Parse and run, letting every exception through."""
    command = typer.main.get_command(app)
    raise_on_interrupt()
    try:
        with command.make_context(name, list(arguments)) as context:
            command.invoke(context)
    finally:
        leave_on_interrupt()


def _overview() -> typer.Typer:
    """Return the app that knows the commands' names and summaries only, for help and for mistyped names."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, callback=_root, no_args_is_help=True)
    for name, entry in COMMANDS.items():
        app.command(name, help=entry.summary)(_nothing)
    return app


def _nothing() -> None:
    """Stand in for a command in the overview, where only names and summaries are read."""


def _show_version(asked: bool) -> None:
    if asked:
        write_line(f"{PROGRAM} {__version__}")
        raise typer.Exit


_VersionFlag = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
]


def _root(version: _VersionFlag = False) -> None:
    """Run, measure and plan large models on the hardware you have.

    Each command has its own help, with examples: steelyard run --help

    Text goes to standard output; progress, summaries and errors go to standard error. With --json, standard output
    carries JSON and nothing else.
    """
    del version
