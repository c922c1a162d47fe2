"""Answers in the background: asked for and fetched with the official client, and the desk by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from live_server import KEYS
from starlette.datastructures import Headers

from steelyard.core.clock import sleep_s
from steelyard.serve.background import BackgroundDesk
from steelyard.serve.errors import ApiError
from steelyard.serve.sse import ServerEvent
from steelyard.sim.virtual import run_virtual

ASK = "Name the capital of France."
LONG = "Count from one to a thousand, in words."


def ask(client: openai.OpenAI, **changes: Any) -> Any:
    asked: dict[str, Any] = {"model": "smol", "input": ASK, "temperature": 0, "max_output_tokens": 8} | changes
    return client.responses.create(**asked)


def wait(client: openai.OpenAI, response: Any) -> Any:
    """Ask again until the answer has ended."""
    while response.status in ("queued", "in_progress"):
        response = client.responses.retrieve(response.id)
    return response


def test_an_answer_is_there_later_and_the_same_as_at_once(client):
    begun = ask(client, background=True)
    assert begun.status == "queued"
    assert begun.background is True
    assert begun.output == []
    ended, at_once = wait(client, begun), ask(client)
    assert ended.id == begun.id
    assert ended.output_text == at_once.output_text
    assert (ended.status, ended.usage.output_tokens) == (at_once.status, at_once.usage.output_tokens)
    assert at_once.background is False
    more = ask(client, input="And of Spain?", previous_response_id=ended.id)
    assert more.output_text == ask(client, input="And of Spain?", previous_response_id=at_once.id).output_text


def test_one_is_cancelled_wherever_it_is(client):
    begun = ask(client, input=LONG, background=True, max_output_tokens=400, extra_body={"timeout": 50})
    cancelled = client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert cancelled.incomplete_details is None
    assert cancelled.usage.output_tokens < 400
    assert client.responses.retrieve(begun.id).status == "cancelled"
    assert client.responses.cancel(begun.id).status == "cancelled"
    done = wait(client, ask(client, background=True))
    assert client.responses.cancel(done.id).output_text == done.output_text


def test_a_client_that_goes_away_takes_the_stream_up_again(client):
    seen: list[Any] = []
    with ask(client, background=True, stream=True, max_output_tokens=12, input=LONG) as events:
        for event in events:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    name, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(client.responses.retrieve(name, stream=True, starting_after=last))
    events = [*seen, *rest]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:3] == ["created", "queued", "in_progress"]
    assert kinds[-1] == "incomplete"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    ended = client.responses.retrieve(name)
    assert text == ended.output_text == events[-1].response.output_text
    assert ended.usage.output_tokens == 12
    assert [event.type for event in client.responses.retrieve(name, stream=True)] == [event.type for event in events]


def test_an_answer_is_its_own_callers_and_can_be_forgotten(client):
    begun = ask(client, input=LONG, background=True, max_output_tokens=400)
    other = client.with_options(api_key=KEYS["bob"])
    for look in (other.responses.retrieve, other.responses.cancel, other.responses.delete):
        with pytest.raises(openai.NotFoundError):
            look(begun.id)
    client.responses.delete(begun.id)
    for look in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            look(begun.id)


def test_what_refuses_a_request_is_told_at_once(client, http):
    with pytest.raises(openai.NotFoundError):
        ask(client, background=True, model="nobody")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, background=True, temperature=-1)
    plain = ask(client)
    with pytest.raises(openai.BadRequestError, match="not kept"):
        client.responses.retrieve(plain.id, stream=True)
    alone = http.get(f"/v1/responses/{plain.id}", params={"starting_after": 1})
    assert (alone.status_code, alone.json()["error"]["param"]) == (400, "starting_after")


class Growing:
    """Stands for what is asked and for its dialect: events come when they are let come."""

    def __init__(self, *, refused: Exception | None = None) -> None:
        self.refused, self.gate, self.is_open = refused, asyncio.Event(), False

    @asynccontextmanager
    async def generation(self, caller: str, headers: Headers) -> AsyncIterator[Any]:
        if self.refused is not None:
            raise self.refused
        self.is_open = True
        try:
            yield SimpleNamespace(cancel=self.gate.set)
        finally:
            self.is_open = False

    async def events(self, generation: Any) -> AsyncIterator[ServerEvent]:
        yield ServerEvent({"response": {"status": "queued"}})
        await self.gate.wait()
        yield ServerEvent({"delta": "x"})
        yield ServerEvent({"response": {"status": "completed"}})

    def answer(self, generation: Any) -> dict[str, Any]:
        return {}


async def begin(desk: BackgroundDesk, id: str, growing: Growing) -> Any:
    return await desk.begin("ann", id, growing, growing, Headers({}))


def test_everybody_who_looks_sees_every_event_once():
    async def run() -> None:
        desk, growing = BackgroundDesk(), Growing()
        answer = await begin(desk, "a", growing)
        assert answer.latest == {"status": "queued"}

        async def seen(after: int) -> list[ServerEvent]:
            return [event async for event in answer.events_after(after)]

        readers = [asyncio.create_task(seen(after)) for after in (-1, -1, 0, 1, 5)]
        await asyncio.sleep(0)
        growing.gate.set()
        counts = [len(await reader) for reader in readers]
        assert counts == [3, 3, 2, 1, 0]
        assert answer.latest == {"status": "completed"}
        assert not growing.is_open
        assert await seen(-1) == await seen(-1)

    asyncio.run(run())


def test_there_are_not_too_many():
    async def run() -> None:
        desk, growing = BackgroundDesk(max_growing=2), [Growing() for _ in range(3)]
        for number in range(2):
            await begin(desk, str(number), growing[number])
        with pytest.raises(ApiError) as refused:
            await begin(desk, "2", growing[2])
        assert refused.value.status == 429
        answer = desk.get("ann", "0")
        assert answer is not None
        await answer.cancel()
        await asyncio.sleep(0)
        await begin(desk, "2", growing[2])
        for one in growing:
            one.gate.set()

    asyncio.run(run())


EVENTS = ({"response": {"status": "queued"}}, {"delta": "x"}, {"response": {"status": "completed"}})
BYTES = sum(len(ServerEvent(data).encode()) for data in EVENTS)  # of an answer of Growing's


async def begin_and_end(desk: BackgroundDesk, id: str, caller: str = "ann") -> None:
    growing = Growing()
    growing.gate.set()
    await desk.begin(caller, id, growing, growing, Headers({}))
    await sleep_s(0.01)


def test_the_oldest_that_have_ended_are_forgotten():
    async def run() -> None:
        desk, kept = BackgroundDesk(kept_bytes=2 * BYTES), []
        for number in range(4):
            await begin_and_end(desk, str(number))
            kept.append([desk.get("ann", str(one)) is not None for one in range(number + 1)])
        assert kept == [[True], [True, True], [False, True, True], [False, False, True, True]]

    run_virtual(run())


def test_who_keeps_too_much_loses_his_own():
    async def run() -> None:
        desk = BackgroundDesk(kept_bytes=4 * BYTES, kept_bytes_of_caller=2 * BYTES)
        await begin_and_end(desk, "0", "bob")
        for number in range(5):
            await begin_and_end(desk, str(number))
        assert [desk.get("ann", str(number)) is not None for number in range(5)] == [False] * 3 + [True] * 2
        assert desk.get("bob", "0") is not None

    run_virtual(run())


def test_an_answer_is_kept_for_a_while_after_its_end_and_as_long_as_it_grows():
    async def run() -> None:
        desk, growing = BackgroundDesk(kept_s=60.0), Growing()
        await begin(desk, "slow", growing)
        await begin_and_end(desk, "quick")
        await sleep_s(59.0)
        assert desk.get("ann", "quick") is not None
        await sleep_s(2.0)
        assert desk.get("ann", "quick") is None
        await sleep_s(1000.0)
        assert desk.get("ann", "slow") is not None
        growing.gate.set()
        await sleep_s(59.0)
        assert desk.get("ann", "slow") is not None
        await sleep_s(2.0)
        assert desk.get("ann", "slow") is None

    run_virtual(run())


def test_what_grows_is_kept_however_much_there_is():
    async def run() -> None:
        desk, growing = BackgroundDesk(kept_bytes=0), [Growing() for _ in range(3)]
        for number, one in enumerate(growing):
            await begin(desk, str(number), one)
        assert all(desk.get("ann", str(number)) is not None for number in range(3))
        for one in growing:
            one.gate.set()
        await sleep_s(0.01)
        assert all(desk.get("ann", str(number)) is None for number in range(3))

    run_virtual(run())


def test_one_that_was_refused_is_not_kept():
    async def run() -> None:
        desk = BackgroundDesk()
        with pytest.raises(ApiError, match="no"):
            await begin(desk, "a", Growing(refused=ApiError(400, "no")))
        assert desk.get("ann", "a") is None
        assert not await desk.remove("ann", "a")

    asyncio.run(run())
