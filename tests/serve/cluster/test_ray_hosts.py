"""Replicas that Ray places: a real local cluster, and what is wrong without one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from fleets import is_alive

from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.build import LLMOptions
from steelyard.serve.cluster.llm import FleetLLM, FleetModels
from steelyard.serve.cluster.remote import Health
from steelyard.serve.config import FleetConfig, ModelSpec, ServeConfig

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the package ray is not installed")

OPTIONS = LLMOptions(max_model_len=256, max_num_seqs=2)
REQUEST = Request(
    id="r", prompt_token_ids=(504, 253, 1025, 30), params=SamplingParams(max_tokens=150, seed=5, ignore_eos=True)
)


def config(cluster: str, num_replicas: int = 1) -> ServeConfig:
    return ServeConfig(
        models=(ModelSpec(source=None, names=("m",)),),
        engine=OPTIONS,
        fleet=FleetConfig(replicas=num_replicas, cluster=cluster),
    )


def workers() -> set[int]:
    """Return the processes of all workers on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if b"steelyard.serve.cluster.worker" in words and is_alive(int(path.parent.name)):
            found.add(int(path.parent.name))
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.05)


async def alone() -> str:
    """Return what an engine of this process answers."""
    llm = AsyncLLM(max_model_len=256, max_num_seqs=2)
    output = await llm.start().submit(REQUEST).result()
    await llm.close()
    return output.text


async def lives_through_a_death(llm: FleetLLM) -> str:
    """Return the answer to a request whose replica is killed in the middle of it."""
    response = llm.start().submit(REQUEST)
    await until(lambda: response.completions[0].num_tokens > 10)
    llm.crew.members[0].process.kill()
    return (await response.result()).text


def test_replicas_that_ray_places_answer_die_and_come_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steelyard.serve.supervise.FIRST_PAUSE_S", 0.01)
    before = workers()

    async def main() -> None:
        source = FleetModels(config("ray"), health=Health(close_s=5.0))
        llm = await source.load(ModelSpec(source=None, names=("m",)))
        first = workers() - before
        assert len(first) == 1
        assert await lives_through_a_death(llm) == await alone()
        assert llm.crew.num_deaths == [1]
        second = workers() - before
        assert len(second) == 1
        assert first.isdisjoint(second)
        await source.put_away(llm)
        await until(lambda: workers() == before)

    try:
        asyncio.run(main())
    finally:
        import_module("ray").shutdown()


@pytest.mark.parametrize("cluster", ["kubernetes", "ray://nowhere", "ray://:x"])
def test_what_is_no_cluster_is_refused(cluster: str):
    with pytest.raises(ParamsError, match="cluster"):
        FleetModels(config(cluster))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


@contextmanager
def cluster_head() -> Iterator[str]:
    """A cluster of one machine, in processes of its own, as an operator starts it; its client address."""
    port, client_port = free_ports(2)
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *("--port", str(port), "--ray-client-server-port", str(client_port), "--include-dashboard=false"),
        *("--num-cpus", "2", "--object-store-memory", str(100 << 20)),
    ]
    # Where all cores are busy, what Ray starts for a client takes longer than Ray's own patience of 30 s.
    patience = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "240"}
    environment = {**os.environ, **patience, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as head:
        try:
            deadline_s = time.monotonic() + 60
            while not is_open(client_port):
                assert head.poll() is None, "the head has ended"
                assert time.monotonic() < deadline_s, "the head does not come up"
                time.sleep(0.1)
            yield f"ray://127.0.0.1:{client_port}"
        finally:
            os.killpg(head.pid, signal.SIGTERM)


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(
    "RAY_CLUSTER_TESTS" not in os.environ,
    reason="Ray starts a cluster's processes with fixed patience: set RAY_CLUSTER_TESTS=1 on a machine with idle cores",
)
def test_two_replicas_on_a_cluster_and_one_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steelyard.serve.supervise.FIRST_PAUSE_S", 0.01)
    before = workers()

    async def main(cluster: str) -> None:
        source = FleetModels(config(cluster, num_replicas=2), health=Health(close_s=5.0))
        llm = await source.load(ModelSpec(source=None, names=("m",)))
        first = workers() - before
        assert len(first) == 2
        assert await survives_the_death_of_its_worker(llm, first) == await alone()
        await until(lambda: sum(llm.crew.num_deaths) == 1 and len(workers() - before) == 2)
        assert len((workers() - before) & first) == 1
        await source.put_away(llm)
        await until(lambda: workers() == before)

    with cluster_head() as cluster:
        try:
            asyncio.run(main(cluster))
        finally:
            import_module("ray").shutdown()


async def survives_the_death_of_its_worker(llm: FleetLLM, pids: set[int]) -> str:
    """Return the answer to a request whose worker is killed from outside in the middle of it."""
    before = {pid: cpu_ticks(pid) for pid in pids}
    response = llm.start().submit(REQUEST)
    await until(lambda: response.completions[0].num_tokens > 20)
    os.kill(max(pids, key=lambda pid: cpu_ticks(pid) - before[pid]), signal.SIGKILL)
    return (await response.result()).text


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
