"""Replicas as processes of this machine: how they are started, and which cores each gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, final

import msgspec
import torch

from steelyard.core.units import ceil_div
from steelyard.engine.build import LLMOptions, resolve_device
from steelyard.serve.cluster.worker import WorkerStart

WORKER = (sys.executable, "-m", "steelyard.serve.cluster.worker")


class Running(Protocol):
    """A worker that was started, however."""

    def is_alive(self) -> bool:
        """Whether it is there, as far as is known."""

    def kill(self) -> None:
        """End it at once; nothing happens to one that has ended."""


class Launcher(Protocol):
    """Starts workers."""

    @property
    def host(self) -> str | None:
        """This machine's address, as workers reach it; ``None`` if they are on this machine."""

    async def options(self, place: int) -> LLMOptions:
        """Return how the replica in a place of the fleet, 0 being the first, loads its model."""

    async def launch(self, place: int, start: WorkerStart) -> Running:
        """Start a worker; it connects by itself.

        Raises:
            SteelyardError: if that cannot be done.
        """


@final
class WorkerProcess:
    """A worker on this machine.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def is_alive(self) -> bool:
        """Whether it runs; when it does no more, nothing is left of it."""
        return self._process.poll() is None

    def kill(self) -> None:
        """See :class:`Running`."""
        self._process.kill()
        self._process.wait()


@final
class ProcessLauncher:
    """Starts workers on this machine, among which its cores, memory and GPUs are shared out.

    Args:
        options: how models are loaded.
        num_replicas: of each.
        command: that starts a worker.
    """

    host = None

    def __init__(self, options: LLMOptions, num_replicas: int, command: Sequence[str] = WORKER) -> None:
        self._options, self._command = options, tuple(command)
        self._cores = share_cores(usable_cores(), num_replicas)

    async def options(self, place: int) -> LLMOptions:
        """See :class:`Launcher`: threads for its cores, and GPUs in turn."""
        options, device = self._options, resolve_device(self._options.device)
        num_devices = torch.cuda.device_count() if device.type == "cuda" and options.device in ("auto", "cuda") else 1
        if num_devices > 1:
            options = replace(options, device=f"cuda:{place % num_devices}")
        num_alike = ceil_div(len(self._cores), num_devices)
        return replace(options, threads=options.threads or len(self._cores[place]), num_neighbours=num_alike - 1)

    async def launch(self, place: int, start: WorkerStart) -> WorkerProcess:
        """See :class:`Launcher`."""
        told = msgspec.json.encode(msgspec.structs.replace(start, cores=self._cores[place]))
        return WorkerProcess(start_worker(self._command, told))


def start_worker(command: Sequence[str], told: bytes) -> subprocess.Popen[bytes]:
    """Start a worker and tell it ``told``, through a pipe: others could read its command line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # far less than a pipe holds, so nobody waits
        pipe.write(told + b"\n")
    return process


def share_cores(cores: Sequence[int], num_replicas: int) -> tuple[tuple[int, ...], ...]:
    """Return each replica's cores: neighbours, as evenly as can be; with too few cores, some are shared."""
    if len(cores) < num_replicas:
        return tuple((cores[place % len(cores)],) for place in range(num_replicas))
    ends = [place * len(cores) // num_replicas for place in range(num_replicas + 1)]
    return tuple(tuple(cores[start:end]) for start, end in pairwise(ends))


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on."""
    if sys.platform == "linux":
        cores = os.sched_getaffinity(0)
    else:
        cores = set(range(os.cpu_count() or 1))
    return tuple(sorted(cores))
