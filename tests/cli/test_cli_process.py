"""Commands as processes of their own: signals, pipes, and what only a fresh start shows."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

ENDLESS = ("run", "0, " * 16 + "0,", "--raw", "-n", "4000", "--temperature", "0")


def _interrupted(child: subprocess.Popen[bytes]) -> bytes:
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err
    return out


@pytest.mark.parametrize("delay_s", [0.3, 1.5])
def test_ctrl_c_while_importing_and_loading(start, delay_s):
    child = start(*ENDLESS)
    time.sleep(delay_s)
    _interrupted(child)


def test_ctrl_c_while_generating(start):
    child = start(*ENDLESS)
    assert child.stdout is not None
    first = os.read(child.stdout.fileno(), 1)
    assert first
    _interrupted(child)


def test_a_reader_that_leaves_ends_the_command_quietly(start):
    child = start(*ENDLESS)
    assert child.stdout is not None
    assert child.stderr is not None
    assert os.read(child.stdout.fileno(), 1)
    child.stdout.close()
    assert child.wait(timeout=60) == 141
    assert b"Traceback" not in child.stderr.read()


def test_utf8_leaves_whatever_the_locale(shell):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = shell("tokenize", "--json", "世界", env=environment)
    assert result.code == 0
    assert "世界" in result.out


def test_unwritable_out_is_told_before_anything_runs(shell, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    result = shell("reproduce", "S74", "--quick", "--out", str(blocked))
    assert result.code == 1
    assert "--out" in result.err
    assert "Traceback" not in result.err


def test_bench_startup_starts_a_process(shell):
    result = shell("bench", "startup", "--repeat", "1", "--warmup", "0", "--json", "--max-model-len", "64")
    assert result.code == 0, result.err
    assert '"startup_s"' in result.out
    failed = shell("bench", "startup", "--repeat", "1", "--warmup", "0", "--model", "no-such-model")
    assert failed.code == 1
    assert "no-such-model" in failed.err
