"""How long a request may take, and who says so. In virtual time."""

from __future__ import annotations

import asyncio

import pytest
from modelled_server import completion, modelled_server, post

from steelyard.serve.config import LimitsConfig
from steelyard.sim.virtual import run_virtual

LONG = completion(4, 200)  # some 2.2 s on the modelled machine


def end_of(answer) -> tuple[int, str | None, str | None]:
    choice = answer.json()["choices"][0]
    return answer.json()["usage"]["completion_tokens"], choice["finish_reason"], choice["stop_reason"]


@pytest.mark.parametrize(
    ("body", "header", "limit_s", "expected_s"),
    [
        ({"timeout": 0.5}, None, None, 0.5),
        ({}, "0.5", None, 0.5),
        ({}, None, 0.5, 0.5),
        ({"timeout": 100}, "0.3", 50, 0.3),
        ({"timeout": 0.2}, "1e5", 50, 0.2),
        ({"timeout": 100}, None, 0.4, 0.4),
    ],
)
def test_the_shortest_time_holds(body, header, limit_s, expected_s):
    async def main() -> None:
        async with modelled_server(limits=LimitsConfig(request_timeout_s=limit_s)) as server:
            loop = asyncio.get_running_loop()
            began_s, headers = loop.time(), {} if header is None else {"X-Request-Timeout": header}
            num_tokens, *ends = end_of(await post(server.client(), LONG | body, **headers))
            assert ends == ["length", "deadline"]
            assert expected_s <= loop.time() - began_s <= expected_s + 0.02
            assert 0 < num_tokens < 200
            server.engine.check_invariants()

    run_virtual(main())


def test_waiting_for_a_model_counts():
    async def main() -> None:
        async with modelled_server(load_s=10.0) as server:
            loop = asyncio.get_running_loop()
            for more in ({"timeout": 2.0}, {"timeout": 2.0, "stream": True}):
                began_s = loop.time()
                answer = await post(server.client(), LONG | more)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
                assert loop.time() - began_s == pytest.approx(2.0)
            answer = await post(server.client(), LONG | {"timeout": 7.0})
            assert end_of(answer)[1:] == ("length", "deadline")
            assert loop.time() == pytest.approx(began_s + 2.0 + 7.0, abs=0.05)

    run_virtual(main())


def test_a_request_that_waits_in_the_queue_ends_empty():
    async def main() -> None:
        async with modelled_server(engine={"max_num_seqs": 1}) as server:
            running = asyncio.create_task(post(server.client(), LONG))
            await asyncio.sleep(0.1)
            assert end_of(await post(server.client(), LONG, **{"X-Request-Timeout": "0.5"})) == (
                0, "length", "deadline",
            )  # fmt: skip
            assert (await running).status_code == 200

    run_virtual(main())


@pytest.mark.parametrize("wrong", ["", "soon", "0", "-1", "nan", "inf", "1e300", "1,5"])
def test_what_is_no_time(wrong):
    async def main() -> None:
        async with modelled_server() as server:
            answer = await post(server.client(), LONG, **{"X-Request-Timeout": wrong})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "X-Request-Timeout"

    run_virtual(main())


def test_a_time_beyond_all_clocks_is_refused():
    async def main() -> None:
        async with modelled_server() as server:
            for wrong in (0, -1, 1e300):
                answer = await post(server.client(), LONG | {"timeout": wrong})
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "timeout")

    run_virtual(main())
