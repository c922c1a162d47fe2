"""The HTTP layer under wrk: the whole server with an engine that takes no time."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peerbench.cache import Cache
from peerbench.child import PeerError

from servebench.servers import MODEL_NAME, SCRIPT, ServerProcess, ServerSpec, Shape, needed_program

CONNECTIONS = 64
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What wrk asks for, again and again on every connection.

    Attributes:
        path: of the address.
        body: of a POST, in JSON; ``None`` for a GET.
        tokens: that an answer has.
    """

    path: str
    body: Mapping[str, Any] | None = None
    tokens: int = 0


_COMPLETION = {"model": MODEL_NAME, "prompt": "Hello", "ignore_eos": True}
TARGETS = {
    "/health": Target(path="/health"),
    "/v1/models": Target(path="/v1/models"),
    "/tokenize": Target(path="/tokenize", body={"model": MODEL_NAME, "prompt": "How long is this text, in tokens?"}),
    "/v1/completions, 1 token": Target(path="/v1/completions", body={**_COMPLETION, "max_tokens": 1}, tokens=1),
    "/v1/completions, 64 tokens": Target(path="/v1/completions", body={**_COMPLETION, "max_tokens": 64}, tokens=64),
    "/v1/completions, 64 tokens as a stream": Target(
        path="/v1/completions", body={**_COMPLETION, "max_tokens": 64, "stream": True}, tokens=64
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFigures:
    """What wrk says: requests per second, and the milliseconds that half and 99 of 100 took at most."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def measure_http(cache: Cache, threads: int, seconds: int) -> dict[str, HttpFigures]:
    """Return the figures of every target.

    Raises:
        PeerError: if wrk is missing, or the server answers with anything but 2xx.
    """
    wrk = needed_program("wrk")
    shape = Shape(threads=threads, seats=CONNECTIONS, context=0)
    server = ServerProcess("steelyard, instant", ServerSpec(command=(*SCRIPT, "--instant")), shape, cache)
    try:
        server.wait_until_ready()
        return {name: run_wrk(wrk, server.url, target, seconds) for name, target in TARGETS.items()}
    finally:
        server.kill()


def run_wrk(wrk: str, url: str, target: Target, seconds: int) -> HttpFigures:
    """Run wrk once, after a second of the same that is not counted."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(target))
        script.flush()
        command = [wrk, "-t1", f"-c{CONNECTIONS}", "--latency", "-s", str(Path(script.name)), url + target.path]
        for duration in (1, seconds):
            done = subprocess.run([*command, f"-d{duration}s"], capture_output=True, text=True, check=True)
    return read_wrk(done.stdout)


def lua(target: Target) -> str:
    """Return wrk's script for a target."""
    if target.body is None:
        return ""
    return (
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [==[{json.dumps(dict(target.body))}]==]\n"
    )


def read_wrk(text: str) -> HttpFigures:
    """Return the figures in what wrk printed.

    Raises:
        PeerError: if requests failed.
    """
    check_wrk(text)
    return HttpFigures(
        requests_per_s=float(_found(r"Requests/sec:\s+([\d.]+)", text)[0]),
        p50_ms=_ms(*_found(r"50%\s+([\d.]+)(us|ms|s)", text)),
        p99_ms=_ms(*_found(r"99%\s+([\d.]+)(us|ms|s)", text)),
    )


def check_wrk(text: str) -> None:
    """Raise ``PeerError`` if wrk says that requests failed."""
    if failed := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", text):
        raise PeerError(f"wrk: {failed.group()}")


def _found(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise PeerError(f"wrk told no {pattern!r}: {text[-200:]!r}")
    return found.groups()


def _ms(number: str, unit: str) -> float:
    return float(number) * _UNITS_MS[unit]
