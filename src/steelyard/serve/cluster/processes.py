"""Replicas as processes of this machine: how they are started, and which cores each gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, final

import msgspec
import torch

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

    async def launch(self, place: int, start: WorkerStart) -> Running:
        """Start a worker in a place of the fleet, 0 being the first; it connects by itself.

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
    """Starts workers on this machine.

    Args:
        shares: the cores of each place.
        command: that starts a worker.
    """

    def __init__(self, shares: Sequence[tuple[int, ...]], command: Sequence[str] = WORKER) -> None:
        self._shares, self._command = tuple(shares), tuple(command)

    async def launch(self, place: int, start: WorkerStart) -> WorkerProcess:
        """See :class:`Launcher`. What the worker is told goes through a pipe: others could read its command line."""
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        told = msgspec.json.encode(msgspec.structs.replace(start, cores=self._shares[place]))
        assert process.stdin is not None
        with process.stdin as pipe:  # far less than a pipe holds, so nobody waits
            pipe.write(told + b"\n")
        return WorkerProcess(process)


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


def options_for(options: LLMOptions, place: int, num_cores: int) -> LLMOptions:
    """Return how a replica loads its model: with its own cores, and a GPU in turn where there are any."""
    device = resolve_device(options.device)
    if device.type == "cuda" and options.device in ("auto", "cuda"):
        options = replace(options, device=f"cuda:{place % torch.cuda.device_count()}")
    return replace(options, threads=options.threads or num_cores)
