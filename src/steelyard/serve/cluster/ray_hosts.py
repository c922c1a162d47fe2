"""Replicas that Ray places: :class:`RayLauncher`. Needs the extra ``ray``.

An actor holds a replica's CPUs and GPUs and starts the same worker process as everywhere, which talks to the server as
everywhere, in our messages. Ray decides where an actor lives and tells when it has died; who is put in its place is the
crew's business. What goes through Ray itself is a call and a line of JSON.

``ray`` starts Ray here, for as long as the server lives; ``ray://HOST:PORT`` is the client port of a cluster whose
machines have Steelyard and the model where this one has them. Its network must be trusted: replicas prove themselves by
a secret, but what is said is not encrypted.
"""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, final

import msgspec
import ray

from steelyard.core.errors import ParamsError, ResourceError
from steelyard.core.units import MIB, ceil_div
from steelyard.engine.build import LLMOptions
from steelyard.serve.cluster.processes import WORKER, start_worker, usable_cores
from steelyard.serve.cluster.worker import WorkerStart

LOCAL = "ray"
_SCHEME = "ray://"
_REMEDY = "Look whether it runs, its client port, and whether it wants a token (RAY_AUTH_MODE=token)"
_STORE_BYTES = 100 * MIB  # the least that Ray takes, near enough; nothing is kept there


class WorkerHost:
    """What an actor is: a worker's parent."""

    def run(self, told: bytes) -> int:
        """Start a worker and return its exit code once it has ended."""
        return start_worker(WORKER, told).wait()


@final
class RayWorker:
    """A worker whose parent is an actor (:class:`~steelyard.serve.cluster.processes.Running`)."""

    def __init__(self, actor: Any, end: Future[int]) -> None:
        self._actor, self._end = actor, end

    def is_alive(self) -> bool:
        """Whether neither it nor its actor is known to have ended; one that waits for its place counts as alive."""
        return not self._end.done()

    def kill(self) -> None:
        """Kill the actor; the system kills the worker with its parent."""
        ray.kill(self._actor)


@final
class RayLauncher:
    """Starts workers where Ray has room (:class:`~steelyard.serve.cluster.processes.Launcher`).

    Args:
        options: how models are loaded.
        num_replicas: of each.
        cluster: ``ray`` or ``ray://HOST:PORT``.

    Raises:
        ParamsError: if ``cluster`` is neither.
    """

    def __init__(self, options: LLMOptions, num_replicas: int, cluster: str) -> None:
        if cluster != LOCAL and not cluster.startswith(_SCHEME):
            raise ParamsError(f"{cluster!r} is no cluster", field="cluster", remedy="Give ray or ray://HOST:PORT")
        self._options, self._num_replicas, self._cluster = options, num_replicas, cluster
        self.host = None if cluster == LOCAL else address_towards(cluster.removeprefix(_SCHEME))

    async def options(self, place: int) -> LLMOptions:
        """Return how a replica loads its model: with as many threads as CPUs that it asks Ray for."""
        await asyncio.to_thread(self._connect)
        num_alike = ceil_div(self._num_replicas, sum(bool(node["Alive"]) for node in ray.nodes()))
        threads = self._options.threads or max(1, int(self._num_cpus()))
        return replace(self._options, threads=threads, num_neighbours=num_alike - 1)

    async def launch(self, place: int, start: WorkerStart) -> RayWorker:
        """Ask Ray for a place; whoever waits for the worker's connection finds out how long that takes.

        Raises:
            ResourceError: if Ray cannot be reached.
        """
        await asyncio.to_thread(self._connect)
        host = ray.remote(WorkerHost).options(num_cpus=self._num_cpus(), num_gpus=self._num_gpus(), max_restarts=0)
        actor = host.remote()
        return RayWorker(actor, actor.run.remote(msgspec.json.encode(start)).future())

    def _connect(self) -> None:
        """Join the cluster, or start it. Not on the main thread: Ray would take the signals there for itself."""
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        quiet: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": True}
        try:
            if self._cluster == LOCAL:
                own = {"num_cpus": len(usable_cores()), "object_store_memory": _STORE_BYTES}
                # "local": not a cluster that somebody else has started here, or left the address of behind
                ray.init("local", include_dashboard=False, **own, **quiet)
            else:
                ray.init(self._cluster, **quiet)
        except Exception as error:
            problem = f"Ray cannot be reached: {type(error).__name__}: {error!s:.200}"
            raise ResourceError(problem, field="cluster", remedy=_REMEDY) from error

    def _num_cpus(self) -> float:
        """Return the CPUs of a replica: its threads, or an even share; Ray wants whole ones beyond the first."""
        if self._options.threads is not None:
            return self._options.threads
        share = float(ray.cluster_resources().get("CPU", 1.0)) / self._num_replicas
        return float(int(share)) if share >= 1 else share

    def _num_gpus(self) -> int:
        if self._options.device.startswith("cuda"):
            return 1
        return int(self._options.device == "auto" and ray.cluster_resources().get("GPU", 0.0) > 0)


def address_towards(where: str) -> str:
    """Return this machine's address as it is seen from ``HOST:PORT``.

    Raises:
        ParamsError: if that is no address.
    """
    host, _, port = where.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        raise ParamsError(f"{where!r} is no address", field="cluster", remedy="Give ray://HOST:PORT") from None
