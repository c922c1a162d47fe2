"""Who keeps replicas alive: orphans, replicas that cannot load, places that are given up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fleets import MODELLED_WORKER, QUICK, is_alive, live_fleet
from live_server import metric, wait_until
from modelled_worker import VOCABULARY, letter

from steelyard.core.errors import EngineStoppedError, ModelError, ReplicaLostError
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request
from steelyard.engine.build import LLMOptions
from steelyard.engine.executor import SyntheticTokens
from steelyard.models.text.load import TextParts
from steelyard.serve.cluster.llm import FleetLLM, FleetModels
from steelyard.serve.cluster.processes import ProcessLauncher, WorkerProcess
from steelyard.serve.cluster.remote import Health
from steelyard.serve.config import FleetConfig, ModelSpec, ServeConfig

PROGRAM = Path(__file__).with_name("fleet_program.py")
REQUEST = Request(
    id="r", prompt_token_ids=(1, 2, 3), params=SamplingParams(max_tokens=100, seed=5, ignore_eos=True, temperature=0)
)


def text(request: Request) -> str:
    """Return what the modelled engine answers."""
    tokens, start = SyntheticTokens(VOCABULARY), len(request.prompt_token_ids)
    assert request.params.seed is not None
    assert request.params.max_tokens is not None
    positions = range(start, start + request.params.max_tokens)
    return "".join(letter(tokens.token(request.params.seed, position)) for position in positions)


def with_fleet(
    work: Callable[[FleetLLM], Awaitable[None]], num_replicas: int = 1, command: tuple[str, ...] = MODELLED_WORKER,
    max_engine_restarts: int = 100,
) -> None:  # fmt: skip
    """Run ``work`` with replicas and no server before them."""
    options = LLMOptions(max_model_len=256, max_num_seqs=4)
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("m",)),),
        engine=options,
        fleet=FleetConfig(replicas=num_replicas),
        max_engine_restarts=max_engine_restarts,
    )
    launcher = ProcessLauncher(options, num_replicas, command)
    source = FleetModels(config, launcher, load_text=lambda name: TextParts(None, None), health=QUICK)

    async def main() -> None:
        llm = await source.load(config.models[0])
        pids = [pid_of(llm, place) for place in llm.crew.members]
        try:
            await asyncio.wait_for(work(llm), 60)
        finally:
            await source.put_away(llm)
        assert not any(map(is_alive, pids))

    asyncio.run(main())


def pid_of(llm: FleetLLM, place: int) -> int:
    process = llm.crew.members[place].process
    assert isinstance(process, WorkerProcess)
    return process.pid


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.serve.supervise.FIRST_PAUSE_S", 0.001)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_no_replica_outlives_a_server_that_is_killed(stopped: bool):
    with subprocess.Popen([sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        if stopped:
            os.kill(pids[0], signal.SIGSTOP)
        server.kill()
        server.wait()
        wait_until(lambda: not any(map(is_alive, pids)))


def test_all_have_the_sizes_that_the_first_has_found():
    async def work(llm: FleetLLM) -> None:
        def sizes() -> set[int]:
            return {member.profile.engine_config.num_kv_blocks for member in llm.crew.members.values()}

        found = sizes()
        assert len(found) == 1
        llm.crew.members[0].process.kill()
        await until(lambda: 0 not in llm.crew.members)
        await until(lambda: 0 in llm.crew.members)
        assert sizes() == found

    with_fleet(work, num_replicas=2)


def test_a_replica_does_not_heed_what_a_terminal_sends_to_all():
    async def work(llm: FleetLLM) -> None:
        pid = pid_of(llm, 0)
        for one in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, one)
        assert (await llm.start().submit(REQUEST).result()).text == text(REQUEST)
        assert pid_of(llm, 0) == pid

    with_fleet(work)


def test_while_all_are_dead_requests_wait_and_health_says_so():
    async def work(llm: FleetLLM) -> None:
        response = llm.start().submit(REQUEST)
        await until(lambda: response.completions[0].num_tokens > 5)
        for place in (0, 1):
            os.kill(pid_of(llm, place), signal.SIGKILL)
        await until(lambda: not llm.is_up)
        output = await response.result()
        assert llm.is_up
        assert output.text == text(REQUEST)
        assert output.num_cached_tokens == 0
        llm.start().check_idle()
        assert llm.crew.num_deaths == [1, 1]

    with_fleet(work, 2)


def test_places_that_die_too_often_are_given_up_and_the_fleet_with_them():
    async def work(llm: FleetLLM) -> None:
        os.kill(pid_of(llm, 0), signal.SIGKILL)
        await until(lambda: llm.crew.num_deaths == [1] and 0 in llm.crew.members)
        response = llm.start().submit(REQUEST)
        os.kill(pid_of(llm, 0), signal.SIGKILL)
        cause = await llm.stopped()
        assert isinstance(cause, EngineStoppedError)
        assert not llm.crew.members
        await llm.start().close()
        with pytest.raises(EngineStoppedError):
            await response.result()

    with_fleet(work, max_engine_restarts=1)


def test_what_keeps_a_replica_from_loading_its_model_is_told_as_it_is():
    config = ServeConfig(models=(ModelSpec(source="nowhere.gguf", names=("m",)),), fleet=FleetConfig(replicas=2))
    source = FleetModels(config, load_text=lambda name: TextParts(None, None), health=QUICK)
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        asyncio.run(source.load(config.models[0]))


@pytest.mark.parametrize("command", [("false",), ("sleep", "100")], ids=["ends", "says nothing"])
def test_a_process_that_does_not_come_up_is_an_error(command: tuple[str, ...]):
    config = ServeConfig(models=(ModelSpec(source=None, names=("m",)),), fleet=FleetConfig(replicas=1))
    launcher = ProcessLauncher(config.engine, 1, command)
    source = FleetModels(config, launcher, load_text=lambda name: TextParts(None, None), health=Health(start_s=0.2))
    with pytest.raises(ReplicaLostError, match="did not come up"):
        asyncio.run(source.load(config.models[0]))


def test_metrics_tell_replicas_apart():
    with live_fleet(2, modelled=True) as fleet:
        pids = fleet.pids()
        os.kill(pids[1], signal.SIGKILL)

        def told(name: str, **labels: str) -> float:
            return metric(httpx.get(fleet.url + "/metrics").text, f"vllm:{name}", model_name="m", **labels)

        wait_until(lambda: told("replica_deaths_total", replica="1") == 1)
        fleet.wait_until_whole(2)
        assert told("replica_up") == 2
        assert told("replica_deaths_total", replica="0") == 0
        assert told("replica_requests_running") == told("replica_requests_waiting") == 0
        assert told("replica_kv_cache_usage_perc", replica="0") == 0
        body = {"model": "m", "prompt": [1] * 32, "max_tokens": 3}
        assert httpx.post(fleet.url + "/v1/completions", json=body).status_code == 200
        fleet.check_idle()
        assert told("generation_tokens_total") == 3
        assert told("requests_retried_total") == told("requests_continued_total") == 0
