"""`steelyard serve` as a process: signals, exit codes, and what it says when it cannot start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from live_server import wait_until

COMMAND = [sys.executable, "-m", "steelyard.cli.main", "serve", "--port", "0", "--max-model-len", "2048"]
STORY = {"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True, "stream": True}


class Child:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.log = process, ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: "http://" in self.log and "is ready" in self.log)
        self.url = re.search(r"http://[0-9.]+:\d+", self.log)[0]  # type: ignore[index]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def exit_code(self) -> int:
        code = self.process.wait(30)
        self._reader.join(30)
        return code


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def test_sigterm_lets_running_requests_end_and_takes_no_new_ones():
    with child("--drain-timeout", "30", "--log-format", "json") as server:
        body = STORY | {"max_tokens": 60}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as stream:
            events = stream.iter_lines()
            next(events)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in server.log)
            rest = list(events)
        assert rest[-2] == "data: [DONE]"
        assert any('"finish_reason":"length"' in line for line in rest)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")
        assert server.exit_code() == 0
    assert "Traceback" not in server.log


def test_after_the_drain_requests_are_cut_short_but_told():
    with child("--drain-timeout", "0.2") as server:
        with httpx.stream("POST", server.url + "/v1/completions", json=STORY | {"n": 8}, timeout=60) as stream:
            events = stream.iter_lines()
            next(events)
            server.process.send_signal(signal.SIGINT)
            rest = list(events)
        assert sum('"stop_reason":"cancelled"' in line for line in rest) == 8
        assert rest[-2] == "data: [DONE]"
        assert server.exit_code() == 0


def test_a_second_signal_ends_at_once():
    with (
        child("--drain-timeout", "1000") as server,
        httpx.stream("POST", server.url + "/v1/completions", json=STORY, timeout=60) as stream,
    ):
        next(stream.iter_lines())
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 130


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_a_model_that_is_not_there():
    done = run("no-such-model.gguf")
    assert done.returncode == 2
    assert "no-such-model.gguf" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_what_is_wrong_is_said_before_a_model_is_loaded():
    assert run("--log-level", "loud").returncode == 2
    done = run("--api-key", "tiny")
    assert done.returncode == 2
    assert "api_key" in done.stderr
    assert "tiny" not in done.stderr
    assert "max_num_seqs: 'x'" in run(STEELYARD_MAX_NUM_SEQS="x").stderr


def test_without_its_libraries_it_says_what_to_install():
    code = (
        "import sys; from importlib import util; from steelyard.cli import serve;"
        "serve.find_spec = lambda name: None if name == 'uvicorn' else util.find_spec(name);"
        "from steelyard.cli.app import run; sys.exit(run(['serve']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'steelyard[serve]'" in done.stderr
