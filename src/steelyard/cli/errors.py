"""The boundary between commands and the shell: every exception becomes one line on standard error and an exit code.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the machine or the engine could not do it (:class:`ResourceError`) |
| 2 | something the user gave is wrong (:class:`InputError`, or an unknown option) |
| 70 | a bug of ours |
| 130 | Ctrl-C |
| 141 | whoever read our output went away |
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import typer

from steelyard.cli.interrupts import INTERRUPTED
from steelyard.cli.output import print_json, write_error_line
from steelyard.core.errors import InputError, SteelyardError

DONE, FAILED, WRONG_INPUT, INTERNAL, PIPE_CLOSED = 0, 1, 2, 70, 141
# Typer's public names leave out the parent of its usage errors, and its own parents differ between versions.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What the user is told. ``field`` and ``remedy`` may be empty, ``kind`` is the exception's name."""

    kind: str
    field: str
    problem: str
    remedy: str
    exit_code: int

    @property
    def line(self) -> str:
        """One line for people."""
        if self.exit_code == INTERNAL:
            return f"internal error: {self.problem}; run again with --debug"
        text = " ".join(_sentence(part) for part in (self.problem, self.remedy) if part)
        return f"error: {_one_line(self.field)}: {text}" if self.field else f"error: {text}"


def guarded(work: Callable[[], None], *, as_json: bool, debug: bool) -> int:
    """Run ``work`` and return its exit code; failures are reported, never raised.

    Args:
        as_json: also print a failure as ``{"error": {…}}`` on standard output.
        debug: also print the traceback on standard error.
    """
    try:
        work()
        sys.stdout.flush()
    except typer.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        _discard_stdout()
        return PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if _was_interrupted(error):
            return INTERRUPTED
        return _report(error, as_json=as_json, debug=debug)
    return DONE


def describe(error: Exception) -> Failure:
    """Return what to tell the user of an exception."""
    if isinstance(error, SteelyardError):
        code = WRONG_INPUT if isinstance(error, InputError) else FAILED
        return _failure(error, error.field, error.problem, error.remedy, code)
    if isinstance(error, UsageError):
        return _usage_failure(error)
    if isinstance(error, MemoryError):
        return _failure(error, "memory", "there is not enough", "Close other programs or use a smaller model", FAILED)
    return _failure(error, "", f"{type(error).__name__}: {_one_line(str(error))}", "", INTERNAL)


def report(error: Exception) -> int:
    """Print one line on standard error for an exception that does not end the command, and return its exit code."""
    failure = describe(error)
    write_error_line(failure.line)
    return failure.exit_code


def _was_interrupted(error: BaseException) -> bool:
    """Whether ``error`` came up while Ctrl-C was being obeyed: clean-up that an interrupt cut short is no news."""
    seen = error.__context__
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__context__
    return seen is not None


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    failure = describe(error)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    try:
        write_error_line(failure.line)
        if as_json:
            told = {"type": failure.kind, "field": failure.field, "problem": failure.problem, "remedy": failure.remedy}
            print_json({"error": {**told, "exit_code": failure.exit_code}})
    except BrokenPipeError:
        _discard_stdout()
    return failure.exit_code


def _usage_failure(error: Exception) -> Failure:
    """Return a failure for what the option parser found: the option at fault, the problem, where to read more."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    remedy = f"See {context.command_path} --help" if context is not None else "See steelyard --help"
    message = str(getattr(error, "message", "") or "")
    if parameter is None:
        formatted = getattr(error, "format_message", lambda: message)()
        return _failure(error, "", _lower_first(formatted), remedy, WRONG_INPUT)
    names = [name for name in getattr(parameter, "opts", []) if name.startswith("--")]
    field = names[0] if names else str(parameter.name)
    return _failure(error, field, _lower_first(message) or "it is missing", remedy, WRONG_INPUT)


def _failure(error: Exception, field: str, problem: str, remedy: str, exit_code: int) -> Failure:
    kind = type(error).__name__
    return Failure(kind=kind, field=field, problem=problem.rstrip("."), remedy=remedy, exit_code=exit_code)


def _sentence(text: str) -> str:
    """Return ``text`` on one line, with an end."""
    line = _one_line(text)
    return line if line.endswith((".", "?", "!")) else line + "."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's own last flush finds no closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stream without a file underneath has nothing to be discarded
        return
