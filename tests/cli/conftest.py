"""One real model for all tests of the command line, and a way to run commands in this process."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from measured_machine import measured_profile

from steelyard.cli import app, loading, profiles
from steelyard.engine.llm import LLM

COMMAND = [sys.executable, "-m", "steelyard.cli.main"]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as exactly one JSON object on one line."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Take off what a command told the loggers: its standard error is closed after the test."""
    logger = logging.getLogger("steelyard")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture(autouse=True)
def stored_probe(tmp_path, monkeypatch):
    """Let commands predict from a file of the test's own; return its path."""
    path = tmp_path / "cache" / "probe.toml"
    for user in ("profiles", "probe"):
        monkeypatch.setattr(f"steelyard.cli.{user}.profile_path", lambda: path)
    profiles.store_profile(measured_profile(), path)
    return path


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process; ``stdin`` is what is piped in."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = app.run(list(arguments))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


class _Shared:
    """A loaded model that outlives the commands that use it."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


@pytest.fixture(scope="session")
def llm():
    """The default model with a context of 256 tokens."""
    with LLM(max_num_seqs=4, max_model_len=256, threads=1) as llm:
        yield llm


@pytest.fixture
def shared_model(llm, monkeypatch):
    """Let commands use the session's model instead of loading their own; the options they gave are kept."""
    asked: dict[str, Any] = {}

    def load(model: str | None = None, **options: Any) -> _Shared:
        asked.update(options, model=model)
        return _Shared(llm)

    monkeypatch.setattr(loading, "LLM", load)
    return asked


@pytest.fixture
def start():
    """Start a command line in a process of its own; it is ended with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        child = subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def shell(start):
    """Run a command line in a process of its own, to its end."""

    def run(*arguments: str, **options: Any) -> Result:
        child = start(*arguments, **options)
        out, err = child.communicate(timeout=120)
        return Result(child.returncode, out.decode(), err.decode())

    return run
