"""Engines that die: what health and requests say, and how they come back. In virtual time, and once in earnest."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from live_server import live_server
from modelled_server import ModelledServer, completion, modelled_server, post, until

from steelyard.core.errors import StorageError
from steelyard.engine.build import LLMOptions
from steelyard.engine.engine import MAX_FAILED_STEPS
from steelyard.serve.config import ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.pool import ModelState
from steelyard.serve.sources import DiskModels
from steelyard.serve.supervise import FIRST_PAUSE_S
from steelyard.sim.virtual import run_virtual

BODY = completion(4, 50)


def kill(server: ModelledServer) -> None:
    """Let the engine's next step meet a bug."""

    def broken(view: object) -> object:
        raise ZeroDivisionError("a bug")

    server.engine._policy = broken  # type: ignore[assignment]


async def health(server: ModelledServer) -> int:
    return (await server.client().get("/health")).status_code


async def die(server: ModelledServer) -> None:
    """Kill the engine while it works."""
    running = asyncio.create_task(post(server.client(), BODY))
    await until(lambda: server.engine.num_running == 1)
    kill(server)
    answer = await running
    assert answer.status_code == 503
    assert "the model's engine has stopped" in answer.json()["error"]["message"]


def test_a_dead_engine_is_told_at_once_and_comes_back():
    async def main() -> None:
        async with modelled_server() as server:
            await die(server)
            assert await health(server) == 503
            began_s = asyncio.get_running_loop().time()
            answer = await post(server.client(), BODY)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "has died" in answer.json()["error"]["message"]
            assert asyncio.get_running_loop().time() == began_s, "nobody waits for the dead"
            await asyncio.sleep(FIRST_PAUSE_S + 0.1)
            assert await health(server) == 200
            assert (await post(server.client(), BODY)).status_code == 200
            assert len(server.source.loaded) == 2
            assert server.service.num_active == 0

    run_virtual(main())


def test_an_executor_that_fails_all_the_time_is_a_dead_engine():
    async def main() -> None:
        async with modelled_server() as server:

            async def execute(batch: object) -> object:
                raise ZeroDivisionError("the device is gone")

            server.engine._executor.execute = execute  # type: ignore[method-assign,assignment]
            answers = [await post(server.client(), BODY) for _ in range(MAX_FAILED_STEPS)]
            assert {answer.status_code for answer in answers} == {503}
            assert await health(server) == 503
            await asyncio.sleep(FIRST_PAUSE_S + 0.1)
            assert (await post(server.client(), BODY)).status_code == 200

    run_virtual(main())


def test_a_stream_is_told_in_an_event():
    async def main() -> None:
        async with modelled_server() as server:
            running = asyncio.create_task(post(server.client(), BODY | {"stream": True}))
            await until(lambda: server.engine.num_running == 1)
            kill(server)
            answer = await running
            events = answer.text.split("\n\n")
            assert answer.status_code == 200
            assert '"code":"unavailable"' in events[-3]
            assert events[-2] == "data: [DONE]"

    run_virtual(main())


def test_it_stays_down_after_dying_too_often_and_is_forgiven_later(caplog, monkeypatch):
    monkeypatch.setattr("steelyard.serve.supervise.logger.propagate", True)

    async def main() -> None:
        async with modelled_server(max_engine_restarts=2) as server:
            for pause_s in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
                await die(server)
                await asyncio.sleep(pause_s - 0.1)
                assert await health(server) == 503
                await asyncio.sleep(0.2)
                assert await health(server) == 200
            await die(server)
            await asyncio.sleep(3600)
            assert await health(server) == 503
            answer = await post(server.client(), BODY)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
            assert "stays down" in caplog.text

        async with modelled_server(max_engine_restarts=1) as server:
            for _ in range(3):
                await die(server)
                await asyncio.sleep(601)
                assert await health(server) == 200

    run_virtual(main())


def test_one_dead_engine_among_several_is_told_too():
    async def main() -> None:
        async with modelled_server(names=("m", "other"), max_engine_restarts=0) as server:
            assert (await post(server.client(), BODY | {"model": "other"})).status_code == 200
            await die(server)
            assert await health(server) == 503
            assert (await post(server.client(), BODY | {"model": "other"})).status_code == 200, "it still serves"
            assert (await post(server.client(), BODY)).status_code == 503

    run_virtual(main())


def test_an_engine_that_dies_while_it_is_put_away():
    async def main() -> None:
        async with modelled_server(names=("m", "other"), model_memory_bytes=1) as server:
            running = asyncio.create_task(post(server.client(), BODY))
            await until(lambda: server.engine.num_running == 1)
            other = asyncio.create_task(post(server.client(), BODY | {"model": "other"}))
            await until(lambda: server.service.pool.models[0].retiring)
            kill(server)
            assert (await running).status_code == 503
            assert (await other).status_code == 200
            await asyncio.sleep(FIRST_PAUSE_S + 0.1)
            assert await health(server) == 200
            assert (await post(server.client(), BODY)).status_code == 200

    run_virtual(main())


def test_without_restarts_it_stays_down():
    async def main() -> None:
        async with modelled_server(max_engine_restarts=0) as server:
            await die(server)
            await asyncio.sleep(100)
            assert await health(server) == 503
            assert server.service.pool.models[0].state is ModelState.FAILED

    run_virtual(main())


def test_a_model_that_cannot_be_loaded_again_fails_as_others_do():
    async def main() -> None:
        async with modelled_server() as server:
            server.source.broken = StorageError("gone", field="model", remedy="Put it back")
            await die(server)
            await asyncio.sleep(2)
            assert await health(server) == 503
            assert (await post(server.client(), BODY)).status_code == 503
            server.source.broken = None
            assert (await post(server.client(), BODY)).status_code == 200

    run_virtual(main())


def test_a_real_engine_comes_back_with_its_model():
    config = ServeConfig(
        models=(ModelSpec(source=None, names=("smol",)),),
        listen=ListenConfig(port=0),
        engine=LLMOptions(max_model_len=128, max_num_seqs=2),
    )
    body = {"prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0}
    with live_server(config, DiskModels(config.engine)) as live:

        def ask() -> httpx.Response:
            return httpx.post(live.url + "/v1/completions", json=body, timeout=30)

        text = ask().json()["choices"][0]["text"]

        def broken(view: object) -> object:
            raise ZeroDivisionError("a bug")

        live.on_loop(lambda: setattr(live.engine, "_policy", broken))
        assert ask().status_code == 503
        live.eventually(lambda: not live.service.is_ready)
        assert httpx.get(live.url + "/health").status_code == 503
        live.eventually(lambda: live.service.is_ready)
        assert ask().json()["choices"][0]["text"] == text


@pytest.mark.parametrize("stream", [True, False])
def test_an_orderly_end_is_no_death(stream):
    async def main() -> None:
        async with modelled_server() as server:
            assert (await post(server.client(), BODY | {"stream": stream})).status_code == 200
            model = server.service.pool.models[0]
        assert model.error is None
        assert len(server.source.loaded) == 1

    run_virtual(main())
