"""The child's side of the line-JSON protocol: read a request a line on stdin, answer a line on stdout.

Needs the standard library only, because it runs inside each engine's own environment. Requests are objects with a
``do``: ``load``, ``prepare``, ``generate``, ``score`` or ``quit``; answers hold the result, or ``error`` with the
reason. Whatever an engine's libraries print goes to standard error. Times are seconds from the start of a request.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol, TextIO

Tokens = Sequence[int]

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Spec:
    """What to load.

    Attributes:
        model: file or directory, in the engine's own format; empty for the engine's default.
        threads: CPU threads.
        context: tokens of prompt and output together that a request may have.
        seats: requests that may run at once.
        options: of this engine only.
    """

    model: str
    threads: int
    context: int
    seats: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A request's output tokens and when the first was there, seconds from the start of :meth:`Engine.generate`."""

    token_ids: list[int]
    ttft_s: float


class Engine(Protocol):
    """What a child has to offer."""

    def load(self, spec: Spec) -> str:
        """Load the model and return the engine's version."""

    def prepare(self, seats: int, context: int) -> None:
        """Make ready for so many requests at once of so many tokens each; most engines have nothing to do."""

    def generate(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Completion]:
        """Continue each prompt greedily by exactly ``max_tokens`` tokens, end-of-sequence tokens included."""

    def score(self, window: Tokens) -> float:
        """Return the sum of the natural log-probabilities of all tokens of ``window`` but the first."""


def serve(engine: Engine) -> None:
    """Answer requests with what the engine does until stdin ends or one says ``quit``."""
    answer_requests({do: partial(handler, engine) for do, handler in HANDLERS.items()})


def answer_requests(handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests by the handler that ``do`` names until stdin ends or one says ``quit``."""
    end_with_parent()
    answers = take_stdout()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # some libraries hang or crash while they are torn down


def end_with_parent() -> None:
    """Ask Linux to end this process with the driver: stopped, it would not notice that stdin has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_stdout() -> TextIO:
    """Return a file on the real stdout and turn what others print to it towards stderr."""
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def peak_rss_bytes() -> int:
    """Return this process's own peak. (``ru_maxrss`` would include its parent's memory at the fork.)"""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _load(engine: Engine, **spec: Any) -> dict[str, Any]:
    start_s = time.perf_counter()
    version = engine.load(Spec(**spec))
    return {"version": version, "load_s": time.perf_counter() - start_s}


def _prepare(engine: Engine, *, seats: int, context: int) -> dict[str, Any]:
    engine.prepare(seats, context)
    return {}


def _generate(engine: Engine, *, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
    start_s = time.perf_counter()
    completions = engine.generate(prompts, max_tokens)
    total_s = time.perf_counter() - start_s
    return {
        "completions": [asdict(completion) for completion in completions],
        "total_s": total_s,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _score(engine: Engine, *, window: list[int]) -> dict[str, Any]:
    return {"logprob": engine.score(window)}


HANDLERS: dict[str, Callable[..., dict[str, Any]]] = {
    "load": _load,
    "prepare": _prepare,
    "generate": _generate,
    "score": _score,
}
