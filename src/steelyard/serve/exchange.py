"""One HTTP exchange that generates text, whatever its dialect: :class:`Exchange`, and what it asks: :class:`Asking`.

Lease the model, prepare the prompts, submit them, and send events or one answer. All of it is one task, which ends
when the client goes away. A deadline counts from the beginning: until the request is in an engine, it ends with 504,
and from then on the answer ends as it is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steelyard.core.clock import now_s
from steelyard.serve.errors import api_error, invalid, too_late
from steelyard.serve.generation import Generation, GenerationRequest
from steelyard.serve.keys import principal_in
from steelyard.serve.llm import ServedLLM
from steelyard.serve.service import Service
from steelyard.serve.sse import DONE, ServerEvent, event_stream, to_json

MAX_TIMEOUT_S = 1e6  # timers cannot be set for any time


class Teller(Protocol):
    """How a generation is told in the end."""

    def answer(self, generation: Generation) -> Mapping[str, Any]:
        """Return the whole answer of a generation that has ended."""
        ...


@runtime_checkable
class Dialect(Teller, Protocol):
    """How a generation is told in the end, and how while it grows."""

    def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield what is streamed, as it comes."""
        ...


class Preparation(Protocol):
    """Makes a request of ours from a client's, once the model is there."""

    async def __call__(self, llm: ServedLLM) -> GenerationRequest:
        """Tokenize and check."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What a client asks for.

    Attributes:
        service: has the models.
        model: the name that the client gave.
        prepare: called with the model.
        timeout_s: the client's; ``X-Request-Timeout`` and the server's own limit may be shorter.
    """

    service: Service
    model: str | None
    prepare: Preparation
    timeout_s: float | None = None

    @asynccontextmanager
    async def generation(self, caller: str, headers: Headers) -> AsyncIterator[Generation]:
        """Wait for the model, prepare the request and submit it; what is unfinished ends when the block is left.

        Raises:
            ApiError: 504 if its time is over before it is in an engine, and whatever else refuses it.
        """
        service, deadline_s = self.service, self._deadline_s(headers)
        async with AsyncExitStack() as stack:
            stack.enter_context(service.admission.received(caller))
            try:
                async with asyncio.timeout_at(deadline_s):
                    llm = await stack.enter_async_context(service.model(self.model))
                    request = await self.prepare(llm)
            except TimeoutError:
                raise too_late("the request's time was over before its answer began") from None
            if deadline_s is not None:
                request = replace(request, timeout_s=max(0.0, deadline_s - now_s()))
            name = service.pool.answer_name(self.model)
            yield await stack.enter_async_context(service.generate(llm, request, name))

    def _deadline_s(self, headers: Headers) -> float | None:
        """Return the event-loop time after which the answer ends."""
        timeouts = (self.timeout_s, asked_timeout_s(headers), self.service.config.limits.request_timeout_s)
        timeout_s = min((one for one in timeouts if one is not None), default=None)
        return None if timeout_s is None else now_s() + timeout_s


class Exchange(Response):
    """An answer that is generated while it is sent.

    Args:
        service, model, prepare, timeout_s: as in :class:`Asking`.
        dialect: tells what comes of it.
        stream: send events; the dialect must be a :class:`Dialect`.
    """

    def __init__(
        self,
        service: Service,
        *,
        model: str | None,
        prepare: Preparation,
        dialect: Teller,
        stream: bool,
        timeout_s: float | None = None,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._asking = Asking(service=service, model=model, prepare=prepare, timeout_s=timeout_s)
        self._dialect, self._stream = dialect, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send.

        Raises:
            Exception: what happened before the first byte was sent; later errors are sent as an event.
        """
        await while_connected(receive, self._run(scope, send))

    async def _run(self, scope: Scope, send: Send) -> None:
        async with self._asking.generation(principal_in(scope).name, Headers(scope=scope)) as generation:
            if self._stream:
                await self._send_events(generation, send)
            else:
                await self._send_answer(generation, send)

    async def _send_answer(self, generation: Generation, send: Send) -> None:
        await generation.result()
        body = to_json(self._dialect.answer(generation)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_events(self, generation: Generation, send: Send) -> None:
        assert isinstance(self._dialect, Dialect)
        async with event_stream(send, ping_interval_s=self._asking.service.config.observe.ping_interval_s) as writer:
            try:
                async for event in self._dialect.events(generation):
                    await writer.write(event)
            except Exception as error:  # the status has gone out; the client is told in an event
                await writer.write(ServerEvent(api_error(error).body))
                await writer.write(DONE)


def asked_timeout_s(headers: Headers) -> float | None:
    """Return the seconds in ``X-Request-Timeout``, if it is there.

    Raises:
        ApiError: 400 if it is no number of seconds.
    """
    text = headers.get("x-request-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        message = "X-Request-Timeout: it is no number of seconds. Give one above 0."
        raise invalid(message, param="X-Request-Timeout")
    return seconds


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, but cancel it as soon as the client has gone away. The request's body must have been read."""
    loop = asyncio.get_running_loop()
    working, gone = loop.create_task(work), loop.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait({working})
    if not working.cancelled():
        working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
