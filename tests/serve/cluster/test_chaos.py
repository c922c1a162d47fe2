"""Replicas killed and stopped on a schedule, under load: every request ends exactly once, with the right text."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from random import Random
from typing import Any

import httpx
import pytest
from fleets import LiveFleet, is_alive, live_fleet
from live_server import metric, wait_until
from modelled_worker import STEP_S, VOCABULARY, letter

from steelyard.engine.executor import SyntheticTokens

NUM_REPLICAS = 3
NUM_CLIENTS = 14
SCHEDULE = ((signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGKILL, NUM_REPLICAS), (signal.SIGSTOP, 2))


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that has died is filled again at once, and no answer is given up, however slow this machine is."""
    monkeypatch.setattr("steelyard.serve.supervise.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("steelyard.serve.cluster.llm._SPARE_ATTEMPTS", 100)


def body(rng: Random) -> dict[str, Any]:
    num_prompt, num_output = rng.randint(1, 100), rng.randint(1, 200)
    return {
        "model": "m",
        "prompt": [rng.randrange(VOCABULARY) for _ in range(num_prompt)],
        "max_tokens": num_output,
        "seed": rng.getrandbits(40),
        "ignore_eos": True,
        "stream": rng.random() < 0.7,
        "n": 1 if rng.random() < 0.8 else 3,
    }


def expected(asked: dict[str, Any]) -> dict[int, str]:
    """Return the text of each completion."""
    tokens, start = SyntheticTokens(VOCABULARY), len(asked["prompt"])
    positions = range(start, start + asked["max_tokens"])
    return {
        index: "".join(letter(tokens.token(asked["seed"] + index, position)) for position in positions)
        for index in range(asked["n"])
    }


async def whole(http: httpx.AsyncClient, asked: dict[str, Any]) -> dict[int, str]:
    answer = await http.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    assert all(choice["finish_reason"] == "length" for choice in choices)
    return {choice["index"]: choice["text"] for choice in choices}


async def streamed(http: httpx.AsyncClient, asked: dict[str, Any], leaves_after: int | None) -> dict[int, str] | None:
    """Return the texts, each of which must end once; ``None`` if the client left before."""
    texts: dict[int, str] = {}
    ended: set[int] = set()
    async with http.stream("POST", "/v1/completions", json=asked) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "choices" in event, event
            for choice in event["choices"]:
                index = choice["index"]
                assert index not in ended, "something came after the end"
                texts[index] = texts.get(index, "") + choice["text"]
                if choice["finish_reason"] is not None:
                    assert choice["finish_reason"] == "length"
                    ended.add(index)
            if leaves_after is not None and sum(map(len, texts.values())) > leaves_after:
                return None
    assert ended == set(texts)
    return texts


async def one_client(http: httpx.AsyncClient, rng: Random, over: asyncio.Event) -> None:
    while not over.is_set():
        asked = body(rng)
        leaves_after = rng.randint(1, 100) if rng.random() < 0.15 else None
        if asked["stream"]:
            texts = await streamed(http, asked, leaves_after)
        else:
            texts = await whole(http, asked)
        assert texts in (None, expected(asked))


async def killer(fleet: LiveFleet, rng: Random, over: asyncio.Event) -> None:
    """Strike replicas that work, each time when all are there again."""
    for how, num_struck in SCHEDULE:
        await asyncio.sleep(rng.uniform(0.2, 0.6))
        pids = (await asyncio.to_thread(fleet.pids_of_busy))[:num_struck]
        num_deaths = sum(fleet.llm.crew.num_deaths) + len(pids)
        for pid in pids:
            os.kill(pid, how)
        await asyncio.to_thread(wait_until, lambda due=num_deaths: sum(fleet.llm.crew.num_deaths) >= due)
        await asyncio.to_thread(fleet.wait_until_whole, NUM_REPLICAS)
    over.set()


@pytest.mark.parametrize("seed", [1])
def test_every_request_ends_exactly_once(seed: int):
    async def main(fleet: LiveFleet) -> None:
        over = asyncio.Event()
        async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as http:
            clients = [one_client(http, Random(f"{seed} {index}"), over) for index in range(NUM_CLIENTS)]
            await asyncio.gather(killer(fleet, Random(seed), over), *clients)

    with live_fleet(NUM_REPLICAS, modelled=True, router="power_of_two", max_engine_restarts=100) as fleet:
        asyncio.run(main(fleet))
        fleet.check_idle()
        dispatcher = fleet.llm.start().dispatcher
        assert sum(fleet.llm.crew.num_deaths) >= len(SCHEDULE)
        assert fleet.live.on_loop(lambda: dispatcher.num_retries) > 0
        assert fleet.live.on_loop(lambda: dispatcher.num_continuations) > 0
        text = httpx.get(fleet.url + "/metrics").text
        assert metric(text, "vllm:num_requests_running") == metric(text, "vllm:num_requests_waiting") == 0


def test_a_replica_that_hangs_is_noticed_killed_and_replaced():
    asked = body(Random(3)) | {"max_tokens": 400, "prompt": [1, 2, 3], "n": 1, "stream": True}

    async def main(fleet: LiveFleet) -> int:
        async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as http:
            reading = asyncio.create_task(streamed(http, asked, None))
            await asyncio.to_thread(wait_until, fleet.pids_of_busy)
            await asyncio.sleep(50 * STEP_S)
            pid = fleet.kill_busiest(signal.SIGSTOP)
            assert await reading == expected(asked)
        return pid

    with live_fleet(2, modelled=True, router="round_robin") as fleet:
        pid = asyncio.run(main(fleet))
        assert not is_alive(pid)
        fleet.wait_until_whole(2)
        assert pid not in fleet.pids()
        fleet.check_idle()
