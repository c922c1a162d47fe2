"""Lines on their way through the application: who sends them, with what seed, and again where there is no room."""

from __future__ import annotations

import json

import pytest
from modelled_server import modelled_server
from test_batch_store import new_batch

from steelyard.serve.batch.sender import LineSender, request_body
from steelyard.serve.batch.types import Line
from steelyard.serve.config import KeyLimits, SharingConfig
from steelyard.serve.keys import PRINCIPAL
from steelyard.sim.virtual import run_virtual

BATCH = new_batch("b", owner="ann", cache_salt="key:ann")


def line(name: str = "a", **body: object) -> Line:
    return Line(number=1, custom_id=name, body=json.dumps({"prompt": [1, 2, 3], "max_tokens": 4} | body))


def test_lines_come_behind_all_others_from_a_tenant_of_their_own():
    seen = []

    async def main():
        async with modelled_server("ann") as server:
            submit = server.engine.submit
            server.engine.submit = lambda request: (seen.append(request), submit(request))[1]
            return await LineSender(server.app).answer(BATCH, line(priority=(1 << 31) - 1))

    answer = run_virtual(main())
    assert answer.status == 200
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 4
    (request,) = seen
    assert request.tenant == "batch:ann"
    assert request.priority > (1 << 31)
    assert request.cache_salt.startswith("7:key:ann")


def test_a_line_that_finds_no_room_is_sent_again():
    async def main():
        sharing = SharingConfig(default=KeyLimits(requests_per_min=1))
        async with modelled_server("ann", sharing=sharing) as server:
            sender = LineSender(server.app)
            return [(await sender.answer(BATCH, line())).status for _ in range(3)]

    assert run_virtual(main()) == [200, 200, 200]


def test_an_error_is_an_answer():
    async def main():
        async with modelled_server("ann") as server:
            sender = LineSender(server.app)
            return [await sender.answer(BATCH, line(**body)) for body in ({"n": -1}, {"stream": True})]

    wrong, stream = run_virtual(main())
    assert (wrong.status, json.loads(wrong.body)["error"]["param"]) == (400, "n")
    assert (stream.status, json.loads(stream.body)["error"]["param"]) == (400, "stream")
    assert wrong.state == stream.state == "failed"


def test_a_seed_is_made_of_the_name_where_there_is_none():
    def seed(name: str, **body: object) -> object:
        return json.loads(request_body(BATCH, line(name, **body))).get("seed")

    assert seed("a") == seed("a") == seed("a", seed=None) != seed("b")
    assert seed("a", seed=5) == 5
    vectors = new_batch("b", endpoint="/v1/embeddings")
    assert "seed" not in json.loads(request_body(vectors, line()))


@pytest.mark.parametrize("name", [PRINCIPAL, "X-" + PRINCIPAL, "state"])
def test_nobody_outside_can_pass_for_a_line(name):
    async def main():
        async with modelled_server("ann") as server, server.client() as client:
            return (await client.get("/v1/models", headers={name: "batch:ann"})).status_code

    assert run_virtual(main()) == 401
