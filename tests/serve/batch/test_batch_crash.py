"""Processes killed at random moments: each line comes out once in the end, and as it would have without."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from live_server import wait_until

COMMAND = [sys.executable, "-m", "steelyard.cli.main"]
NUM_LINES = 24
# Seconds in which a process starts, loads the model and works: kills fall anywhere in between.
LIFE_S = (0.5, 2.5)


def write_input(path: Path) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": f"{number}, ", "max_tokens": 40, "ignore_eos": True, "temperature": 1.0},
        }
        for number in range(NUM_LINES)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def texts(written: str) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in written.splitlines()]
    return [(line["custom_id"], line["response"]["body"]["choices"][0]["text"]) for line in found]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_input(folder / "in")
    command = [*COMMAND, "batch", str(folder / "in"), str(folder / "out")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    found = texts((folder / "out").read_text())
    assert [name for name, _ in found] == [f"line-{number}" for number in range(NUM_LINES)]
    return found


def test_a_command_killed_again_and_again(tmp_path, undisturbed):
    write_input(tmp_path / "in")
    chance, output = random.Random(59), tmp_path / "out"
    command = [*COMMAND, "batch", str(tmp_path / "in"), str(output), "--max-num-seqs", "2", "--concurrency", "3"]
    for _ in range(4):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(*LIFE_S))
        child.kill()
        child.wait()
        if output.exists():
            break
    if not output.exists() or (tmp_path / "out.state").exists():
        subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert texts(output.read_text()) == undisturbed
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


class Served:
    """``steelyard serve`` in a process of its own."""

    def __init__(self, store: Path) -> None:
        arguments = ["serve", "--port", "0", "--batch-store", str(store), "--batch-concurrency", "2"]
        self.process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        self.log = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log += line

    def client(self) -> openai.OpenAI:
        wait_until(lambda: "http://" in self.log)
        url = re.search(r"http://[0-9.]+:\d+", self.log)[0]
        wait_until(lambda: httpx.get(url + "/ping").status_code == 200)
        return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_server_killed_again_and_again(tmp_path, undisturbed):
    write_input(tmp_path / "in")
    chance, store = random.Random(88), tmp_path / "store"
    server = Served(store)
    try:
        with server.client() as client:
            file = client.files.create(file=(tmp_path / "in"), purpose="batch")
            made = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        for _ in range(4):
            time.sleep(chance.uniform(*LIFE_S))
            server.kill()
            server = Served(store)
        with server.client() as client:
            wait_until(lambda: client.batches.retrieve(made.id).status == "completed")
            batch = client.batches.retrieve(made.id)
            assert (batch.request_counts.total, batch.request_counts.completed) == (NUM_LINES, NUM_LINES)
            assert texts(client.files.content(batch.output_file_id).text) == undisturbed
            files = {one.id for one in client.files.list()}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert {path.name for path in Path(f"{store}.files").iterdir()} == files == {file.id, batch.output_file_id}
    finally:
        server.kill()


def test_a_server_that_is_asked_to_stop_does_not_wait_for_batches(tmp_path):
    write_input(tmp_path / "in")
    server = Served(tmp_path / "store")
    try:
        with server.client() as client:
            file = client.files.create(file=(tmp_path / "in"), purpose="batch")
            made = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
            wait_until(lambda: client.batches.retrieve(made.id).request_counts.completed > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log
    finally:
        server.kill()
