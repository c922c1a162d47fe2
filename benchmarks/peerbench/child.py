"""An engine in a process of its own, spoken to line by line in JSON; see ``engines/serving.py`` for the other side."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMEOUT_S = 900.0
PIECE_BYTES = 1 << 16


class PeerError(RuntimeError):
    """An engine could not do what was asked; the text says why, in one line."""


class Child:
    """A process that serves one engine, in a process group of its own.

    Args:
        command: starts it.
        log: gets what it and its libraries print.
        variables: its environment.
    """

    def __init__(self, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._received = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # what a buffer held back, select would not see
                env=variables,
                start_new_session=True,
            )

    def ask(self, do: str, *, timeout_s: float = TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            PeerError: if the engine refuses, dies or takes longer than ``timeout_s``.
        """
        self.send(do, **fields)
        return self.receive(timeout_s)

    def send(self, do: str, **fields: Any) -> None:
        """Send a request.

        Raises:
            PeerError: if the engine has ended.
        """
        assert self._process.stdin is not None
        if self._process.returncode is not None:
            raise PeerError("it had ended before")
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None

    def receive(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the answer to the oldest request that has none yet; the time-out is for each piece of it."""
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            if not select.select([self._process.stdout], [], [], timeout_s)[0]:
                self.kill()
                raise PeerError(f"no answer within {timeout_s:.0f} s")
            piece = self._process.stdout.read(PIECE_BYTES)
            if not piece:
                raise PeerError(self._last_words())
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return parse_answer(line)

    def pause(self) -> None:
        """Stop the group's processes, so that no idle thread spins."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the whole group at once and wait for it. Idempotent."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _last_words(self) -> str:
        self.kill()
        return f"it ended with code {self._process.returncode}: {last_line(self._log)}"

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:  # a number that was waited for may be another process's now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def parse_answer(line: bytes) -> dict[str, Any]:
    """Return the answer in a line.

    Raises:
        PeerError: if it is an error, or no JSON object.
    """
    try:
        answer = json.loads(line)
    except ValueError:
        raise PeerError(f"it answered with no JSON: {line[:80]!r}") from None
    if not isinstance(answer, dict):
        raise PeerError(f"it answered with no object: {line[:80]!r}")
    if "error" in answer:
        raise PeerError(answer["error"])
    return answer


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, without the carriage returns of progress bars."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
