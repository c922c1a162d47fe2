"""A replica in another process, as the server sees it: :class:`RemoteReplica`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import final

from steelyard.core.clock import now_s
from steelyard.core.errors import ReplicaLostError, SteelyardError
from steelyard.core.request import Request
from steelyard.engine.view import LiveSequence, Observer
from steelyard.fleet.engine import ReplicaStatus
from steelyard.fleet.replica import Increment
from steelyard.memory.kv_manager import KVUsage
from steelyard.serve.cluster import wire
from steelyard.serve.cluster.link import Link

logger = logging.getLogger("steelyard.serve")

_NO_KV = KVUsage(
    num_blocks=0, num_referenced_blocks=0, num_idle_blocks=0, num_empty_blocks=0, num_hit_tokens=0, num_miss_tokens=0
)
_UNKNOWN = ReplicaStatus(num_running=0, waiting={}, kv=_NO_KV)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When a replica counts as dead.

    Attributes:
        ping_s: seconds between questions whether it is there.
        silence_s: it is dead once it has said nothing for so long.
        step_s: or if its engine has work and has not ended a step for so long.
        start_s: seconds that it may take to begin; loading the model is not counted.
        close_s: seconds that it may take to end.
    """

    ping_s: float = 1.0
    silence_s: float = 10.0
    step_s: float = 300.0
    start_s: float = 120.0
    close_s: float = 10.0


@final
class RemoteReplica:
    """See :class:`~steelyard.fleet.engine.ObservedReplica`. To be made and used within one event loop.

    Args:
        id: its name.
        link: to it; nothing but its greeting has come through yet.
    """

    capacity = 1.0

    def __init__(self, id: str, link: Link) -> None:
        self.id = id
        self.status, self.kv_block_states = _UNKNOWN, b""
        self._live_sequences: tuple[LiveSequence, ...] = ()
        self._link = link
        self._answers: dict[int, asyncio.Queue[Increment | SteelyardError]] = {}
        self._numbers, self._observers = count(), list[Observer]()
        self._profile: asyncio.Future[wire.ModelProfile] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._heard_s, self._stalled_s = now_s(), 0.0
        link.on_message, link.on_lost = self._take, self._note_loss

    async def load(self, load: wire.Load, health: Health) -> wire.ModelProfile:
        """Let it load a model and return what it says of it.

        Raises:
            SteelyardError: what it failed of; a :class:`ReplicaLostError` if it died.
        """
        self._link.send(load)
        watch = asyncio.get_running_loop().create_task(self.until_lost(health))
        self._profile.add_done_callback(lambda profile: watch.cancel())
        try:
            await asyncio.wait({watch})
        finally:
            watch.cancel()
        if not self._profile.done():
            self._profile.cancel()
            raise self._gone()
        return self._profile.result()

    async def stream(self, request: Request) -> AsyncGenerator[Increment, None]:
        """See :class:`~steelyard.fleet.replica.Replica`."""
        if not self._link.is_open:
            raise self._gone()
        number, answers = next(self._numbers), asyncio.Queue[Increment | SteelyardError]()
        self._answers[number] = answers
        self._link.send(_submission(number, request))
        try:
            while True:
                answer = await answers.get()
                if isinstance(answer, SteelyardError):
                    raise answer
                if answer.finish_reason is not None:
                    del self._answers[number]
                yield answer
        finally:
            if self._answers.pop(number, None) is not None:
                self._link.send(wire.Cancel(number))

    def add_observer(self, observer: Observer) -> None:
        """See :class:`~steelyard.fleet.engine.ObservedReplica`."""
        self._observers.append(observer)

    def live_sequences(self) -> tuple[LiveSequence, ...]:
        """See :class:`~steelyard.fleet.engine.ObservedReplica`: as of the latest look, and ask for a newer one."""
        self._link.send(wire.Look())
        return self._live_sequences

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """See :class:`~steelyard.fleet.engine.ObservedReplica`."""
        self._link.send(wire.Shares(dict(shares)))

    async def until_lost(self, health: Health) -> str:
        """Return why it is lost, once it is: its connection ended, or it has been silent for too long."""
        self._heard_s = now_s()
        while not self._lost.is_set():
            if now_s() - self._heard_s > health.silence_s:
                return f"it has said nothing for {health.silence_s:g} s"
            if self._stalled_s > health.step_s:
                return f"its engine has been at one step for {health.step_s:g} s"
            self._link.send(wire.Ping())
            try:
                async with asyncio.timeout(health.ping_s):
                    await self._lost.wait()
            except TimeoutError:
                pass
        return "its connection has ended"

    def close(self) -> None:
        """Ask it to end."""
        self._link.send(wire.Close())

    def drop(self) -> None:
        """End the connection at once: all its streams are lost."""
        self._link.abort()

    # -- what it says ---------------------------------------------------------------------------------------------

    def _take(self, message: object) -> None:
        self._heard_s = now_s()
        match message:
            case wire.Grown(number, increment):
                self._answer(number, increment)
            case wire.Ended(number, error):
                self._answer(number, wire.raised(error))
            case wire.Stepped():
                self._note_step(message)
            case wire.Pong(status, stalled_s):
                self.status, self._stalled_s = status or self.status, stalled_s
            case wire.Picture():
                self._note_picture(message)
            case wire.Ready(profile) if not self._profile.done():
                self._profile.set_result(profile)
            case wire.Failed(error) if not self._profile.done():
                self._profile.set_exception(wire.raised(error))
            case _:
                raise wire.WireError(f"{type(message).__name__} is not due")

    def _answer(self, number: int, answer: Increment | SteelyardError) -> None:
        """Hand an answer to its stream; one that was left is still spoken of for a while."""
        answers = self._answers.get(number)
        if answers is None:
            return
        if isinstance(answer, SteelyardError):
            del self._answers[number]
        answers.put_nowait(answer)

    def _note_step(self, message: wire.Stepped) -> None:
        self.status = message.status
        late_s = now_s() - message.record.end_s
        record = replace(message.record, start_s=message.record.start_s + late_s, end_s=message.record.end_s + late_s)
        for observer in self._observers:
            observer(record)

    def _note_picture(self, message: wire.Picture) -> None:
        late_s = now_s() - message.now_s
        self._live_sequences = tuple(replace(one, arrival_s=one.arrival_s + late_s) for one in message.sequences)
        self.kv_block_states = message.kv_block_states

    def _note_loss(self, cause: Exception | None) -> None:
        if cause is not None:
            logger.warning("the connection to %s broke: %s", self.id, cause)
        self._lost.set()
        for answers in self._answers.values():
            answers.put_nowait(self._gone())
        self._answers.clear()

    def _gone(self) -> ReplicaLostError:
        return ReplicaLostError("it was lost while it worked", field=self.id, remedy="Send the request again")


def _submission(number: int, request: Request) -> wire.Submit:
    """Return a request as it is sent: its deadline by the time that is left, for clocks differ."""
    left_s = None if request.deadline_s is None else max(0.0, request.deadline_s - now_s())
    return wire.Submit(number, replace(request, deadline_s=None), left_s)
