"""One key floods, another sends single requests: what each waits, through the whole server, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from modelled_server import ModelledServer, completion, modelled_server, post, until

from steelyard.serve.config import KeyLimits, SharingConfig
from steelyard.sim.virtual import run_virtual

NUM_LIGHT = 10


async def took_s(server: ModelledServer, key: str, body: dict) -> float:
    """Send a request and return how long its answer took."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with server.client(key) as client:
        assert (await post(client, body)).status_code == 200
    return loop.time() - began_s


async def light_waits_s(policy: str, num_heavy: int) -> list[float]:
    """Return how long each of a light key's requests took beside a flood."""
    async with modelled_server("heavy", "light", engine={"schedule_policy": policy}) as server:
        flood = [asyncio.create_task(took_s(server, "heavy", completion(32, 32, i % 90))) for i in range(num_heavy)]
        waits = []
        for number in range(NUM_LIGHT):
            await asyncio.sleep(0.2)
            waits.append(await took_s(server, "light", completion(8, 8, number)))
        await asyncio.gather(*flood)
        server.engine.check_invariants()
        return waits


def longest_s(policy: str, num_heavy: int) -> float:
    return max(run_virtual(light_waits_s(policy, num_heavy)))


def test_a_flood_does_not_make_others_wait():
    alone_s = longest_s("vtc", 0)
    small, large = longest_s("vtc", 100), longest_s("vtc", 400)
    assert large == pytest.approx(small, rel=0.2), "the wait does not grow with the flood"
    # One answer of the flood's must end first, and four seats share the machine.
    assert large < 12 * alone_s
    assert longest_s("fcfs", 400) > 20 * large
    assert longest_s("fcfs", 400) > 3 * longest_s("fcfs", 100), "in order of arrival it does"


def test_weights_divide_a_busy_machine():
    async def main() -> tuple[int, int]:
        sharing = SharingConfig(keys={"big": KeyLimits(weight=3.0), "small": KeyLimits()})
        engine = {"schedule_policy": "vtc"}
        async with modelled_server("big", "small", sharing=sharing, engine=engine) as server:
            done = {"big": 0, "small": 0}

            async def one(key: str, number: int) -> None:
                await took_s(server, key, completion(16, 16, number % 90))
                done[key] += 1

            tasks = [asyncio.create_task(one(key, number)) for number in range(150) for key in done]
            await until(lambda: sum(done.values()) >= 120)
            counts = done["big"], done["small"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return counts

    big, small = run_virtual(main())
    assert big / small == pytest.approx(3.0, rel=0.15)


def test_the_same_flood_takes_the_same_time():
    assert run_virtual(light_waits_s("vtc", 50)) == run_virtual(light_waits_s("vtc", 50))
