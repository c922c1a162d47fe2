"""`steelyard serve` as a process: signals, exit codes, and what it says when it cannot start."""

from __future__ import annotations

import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from live_server import wait_until

from steelyard.cli import app
from steelyard.serve.config import ServeConfig
from steelyard.serve.server import allow_open_files

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
            assert httpx.get(server.url + "/health").status_code == 503
            refused = httpx.post(server.url + "/v1/completions", json=STORY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert httpx.get(server.url + "/ping").status_code == 200
            rest = list(events)
        assert rest[-2] == "data: [DONE]"
        assert any('"finish_reason":"length"' in line for line in rest)
        assert server.exit_code() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")
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


def test_limits_and_keys_change_while_it_runs(tmp_path):
    path = tmp_path / "server.yaml"
    secret, other = "secret-of-ann", "secret-of-bob"
    body = {"prompt": "x", "max_tokens": 1}

    def status(key: str = secret) -> int:
        return httpx.post(server.url + "/v1/completions", json=body, headers={"X-API-Key": key}).status_code

    path.write_text(f"api_key: [ann:{secret}]\nrequests_per_min: 1\n", encoding="utf-8")
    with child("--config", str(path)) as server:
        assert [status(), status()] == [200, 429]
        path.write_text(
            f"api_key: [ann:{secret}, bob:{other}]\nkeys: {{bob: {{max_concurrent: 1}}}}\n", encoding="utf-8"
        )
        wait_until(lambda: "set anew" in server.log)
        assert [status(), status(), status(other)] == [200] * 3
        path.write_text("requests_per_min: 1\nkeys: {nobody: {priority: 1}}\n", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "stays as it was: keys: there are limits for keys that do not exist" in server.log)
        assert [status(), status(other)] == [200] * 2
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
    assert not {secret, other} & set(server.log.split())


def test_thousands_of_idle_connections_do_not_keep_others_waiting():
    """Each takes a file here and one there: as many as this process may open, 10,000 at most."""
    allow_open_files(10_500)
    limit = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    arguments = ("--max-connections", str(limit + 50), "--header-timeout", "300")
    with child(*arguments) as server, ExitStack() as stack:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for _ in range(limit):
            stack.enter_context(socket.create_connection(address, timeout=30))
        body = {"prompt": "x", "max_tokens": 1}
        assert httpx.post(server.url + "/v1/completions", json=body, timeout=30).status_code == 200
        assert httpx.get(server.url + "/health", timeout=30).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0


def test_a_model_that_is_not_there():
    done = subprocess.run([*COMMAND, "no-such-model.gguf"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no-such-model.gguf" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "variables", "field"),
    [
        (["--log-level", "loud"], {}, "log_level"),
        (["--api-key", "tiny"], {}, "api_key"),
        (["--config", "/no/such/file"], {}, "config"),
        (["--api-key-file", "/no/such/file"], {}, "api_key_file"),
        ([], {"STEELYARD_MAX_NUM_SEQS": "x"}, "max_num_seqs"),
        (["one", "two", "--served-model-name", "three"], {}, "served_model_name"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(capsys, monkeypatch, arguments, variables, field):
    monkeypatch.delenv("STEELYARD_REQUIRE_NATIVE", raising=False)  # the tests' own, of which the server would warn
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("steelyard.serve.server.configure_logs", lambda config: None)
    assert app.run(["serve", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {field}: ")
    assert "tiny" not in told


def test_settings_come_from_flags_then_environment_then_file(tmp_path, monkeypatch):
    path = tmp_path / "server.yaml"
    path.write_text("port: 1\nhost: file\nmax-num-seqs: 3\n", encoding="utf-8")
    monkeypatch.setenv("STEELYARD_PORT", "2")
    monkeypatch.setenv("STEELYARD_HOST", "environment")
    seen: list[ServeConfig] = []
    monkeypatch.setattr("steelyard.serve.server.run_server", lambda load, path: seen.append(load()))
    assert app.run(["serve", "x.gguf", "--config", str(path), "--port", "3", "--no-enable-prefix-caching"]) == 0
    (config,) = seen
    assert (config.listen.port, config.listen.host, config.engine.max_num_seqs) == (3, "environment", 3)
    assert config.models[0].source == "x.gguf"
    assert not config.engine.enable_prefix_caching


def test_without_its_libraries_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("steelyard.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    assert app.run(["serve"]) == 1
    assert "pip install 'steelyard[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (1024, 4096, 2000, 2000),
        (1024, 4096, 9000, 4096),
        (1024, resource.RLIM_INFINITY, 9000, 9000),
        (1024, 4096, 9, None),
    ],
)
def test_more_files_may_be_open_as_far_as_the_system_lets(monkeypatch, soft, hard, wanted, expected):
    changes = []
    monkeypatch.setattr("steelyard.serve.server.resource.getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr("steelyard.serve.server.resource.setrlimit", lambda kind, limits: changes.append(limits))
    allow_open_files(wanted)
    assert changes == ([] if expected is None else [(expected, hard)])
