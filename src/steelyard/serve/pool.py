"""The models behind one port: loaded on demand, the least recently used one put away when memory is short.

A request *leases* its model; a model with leases stays. Who asks for a model that is not loaded waits in a queue of
models, in the order in which they were first asked for, and one task works it off. While a model is being put away for
another, new requests for it wait at the end of that queue: traffic on one model cannot keep another one out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from steelyard.core.clock import now_s
from steelyard.core.errors import MemoryBudgetError
from steelyard.core.units import format_bytes
from steelyard.serve.config import ModelSpec
from steelyard.serve.errors import NOT_FOUND, ApiError, unavailable
from steelyard.serve.llm import ServedLLM

logger = logging.getLogger("steelyard.serve")

_LONG_S = 60.0  # what clients are told to wait for a model that is down for good


class ModelState(Enum):
    """How far a model is."""

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelSource(Protocol):
    """Where models come from."""

    async def need_bytes(self, spec: ModelSpec) -> int:
        """Return what the model takes at least, before it is loaded."""
        ...

    async def load(self, spec: ModelSpec) -> ServedLLM:
        """Load it, without keeping the event loop from its work."""
        ...

    async def put_away(self, llm: ServedLLM) -> None:
        """Close it and give its memory back."""
        ...


@dataclass(eq=False, slots=True, kw_only=True)
class ServedModel:
    """One model and how it is doing.

    Attributes:
        spec: what it is.
        state: how far it is.
        llm: the model, while it is ready.
        num_leases: requests that use it now.
        last_used_s: when the last of them began or ended, seconds of event-loop time.
        retiring: it is being put away as soon as nobody uses it.
        held_bytes: weights and KV cache, while it is ready.
        num_loads: times it was loaded.
        switch_s: how long the latest load took, seconds, with what had to be put away for it.
        error: why it failed.
        down_until_s: its engine died; until then, seconds of event-loop time, nobody may ask for it.
    """

    spec: ModelSpec
    state: ModelState = ModelState.IDLE
    llm: ServedLLM | None = None
    num_leases: int = 0
    last_used_s: float = 0.0
    retiring: bool = False
    held_bytes: int = 0
    num_loads: int = 0
    switch_s: float = 0.0
    error: Exception | None = None
    down_until_s: float | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What answers call it."""
        return self.spec.names[0]


class ModelPool:
    """All models that are served. Make it anywhere, use it within one event loop.

    Args:
        specs: the models; the first is loaded by :meth:`start`.
        source: loads them.
        budget_bytes: what the loaded ones may take together; ``None`` leaves it to what the machine can hold.
        on_ready: called with a model that has just been loaded.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        source: ModelSource,
        budget_bytes: int | None = None,
        on_ready: Callable[[ServedModel], None] | None = None,
    ) -> None:
        self._on_ready = on_ready
        self.models = tuple(ServedModel(spec=spec) for spec in specs)
        self._by_name = {name: model for model in self.models for name in model.spec.names}
        self._source, self._budget_bytes = source, budget_bytes
        self._wanted: list[ServedModel] = []
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def find(self, name: str) -> ServedModel:
        """Return the model with this name or alias.

        Raises:
            ApiError: 404 if there is none.
        """
        if name not in self._by_name:
            message = f"the model {name!r:.100} does not exist here. GET /v1/models lists those that do."
            raise ApiError(404, message, kind=NOT_FOUND, param="model", code="model_not_found")
        return self._by_name[name]

    def answer_name(self, name: str | None) -> str:
        """Return what answers call the model with this name; without one, the first model."""
        return (self.models[0] if name is None else self.find(name)).name

    @property
    def is_ready(self) -> bool:
        """Whether some model can answer at once, and no engine is dead."""
        is_whole = all(model.down_until_s is None and (model.llm is None or model.llm.is_up) for model in self.models)
        return is_whole and any(model.state is ModelState.READY for model in self.models)

    async def start(self) -> None:
        """Begin to load the first model and return once it is there.

        Raises:
            Exception: what kept it from being loaded, a :class:`SteelyardError` unless it is a bug of ours.
        """
        first = self.models[0]
        try:
            async with self.lease(first.name):
                pass
        except ApiError:
            assert first.error is not None
            raise first.error from None

    async def close(self) -> None:
        """End what is being loaded, and every engine with its requests."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for model in self.models:
            _tell(model, unavailable("the server is about to stop"))
            if model.llm is not None:
                await self._retire(model)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[ServedLLM]:
        """Wait until the model is there and keep it there for the block.

        Raises:
            ApiError: 404 if there is no such model, 503 if it could not be loaded, or at once if its engine died.
        """
        model = self.find(name)
        _check_not_down(model)
        if model.state is ModelState.READY and not model.retiring:
            self._take(model)
        else:
            await self._wait_for(model)
        assert model.llm is not None
        try:
            yield model.llm
        finally:
            self._give_back(model)

    async def take_down(self, model: ServedModel, error: Exception, *, until_s: float) -> None:
        """Put away a model whose engine has died, and let nobody ask for it until ``until_s``, event-loop time.

        Who leased it has been told by the engine and gives the lease back in due course.
        """
        model.down_until_s, model.error = until_s, error
        await self._retire(model, ModelState.FAILED)

    # -- leases ---------------------------------------------------------------------------------------------------

    def _take(self, model: ServedModel) -> None:
        model.num_leases += 1
        model.last_used_s = now_s()

    def _give_back(self, model: ServedModel) -> None:
        model.num_leases -= 1
        model.last_used_s = now_s()
        self._news.set()

    async def _wait_for(self, model: ServedModel) -> None:
        """Queue the model and return with a lease on it, which the worker took for us."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.waiters.append(waiter)
        if model not in self._wanted:
            self._wanted.append(model)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        self._news.set()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(model)
            raise

    # -- switching ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Load the wanted models, one after another, for as long as the pool lives."""
        while True:
            while not self._wanted:
                self._news.clear()
                await self._news.wait()
            model = self._wanted[0]
            try:
                await self._switch_to(model)
            except Exception as error:  # the requests that wait are told
                logger.exception("the model %s could not be loaded", model.name)
                self._fail(model, error)
            self._wanted.remove(model)

    async def _switch_to(self, model: ServedModel) -> None:
        """Load a model, putting others away as far as need be, and hand it to all who wait for it."""
        if model.state is not ModelState.READY:
            began_s = now_s()
            model.state, model.error = ModelState.LOADING, None
            await self._make_room(await self._source.need_bytes(model.spec), keep=model)
            model.llm = await self._load(model)
            model.held_bytes = model.llm.parts.held_bytes
            await self._check_held(model)
            model.state, model.num_loads = ModelState.READY, model.num_loads + 1
            model.switch_s = now_s() - began_s
            if self._on_ready is not None:
                self._on_ready(model)
            logger.info(
                "model %s is ready after %.2f s, %s", model.name, model.switch_s, format_bytes(model.held_bytes)
            )
        model.retiring = False
        for waiter in model.waiters:
            if not waiter.done():
                self._take(model)
                waiter.set_result(None)
        model.waiters.clear()

    async def _check_held(self, model: ServedModel) -> None:
        """Make room for what a loaded model takes indeed, or put it away again."""
        try:
            await self._make_room(0, keep=model)
        except MemoryBudgetError:
            await self._retire(model)
            raise

    async def _load(self, model: ServedModel) -> ServedLLM:
        """Load, and where the machine has too little memory, put another model away and try again."""
        while True:
            try:
                return await self._source.load(model.spec)
            except MemoryBudgetError:
                if not await self._put_away_one(keep=model):
                    raise

    async def _make_room(self, num_bytes: int, *, keep: ServedModel) -> None:
        """Put models away until ``num_bytes`` more are within the budget.

        Raises:
            MemoryBudgetError: if they are not even then.
        """
        if self._budget_bytes is None:
            return
        while num_bytes + sum(model.held_bytes for model in self.models) > self._budget_bytes:
            if not await self._put_away_one(keep=keep):
                raise MemoryBudgetError(
                    f"{keep.name} needs more than the {format_bytes(self._budget_bytes)} that models may take",
                    field="model_memory",
                    remedy="Raise it, or lower max_model_len, max_num_seqs or kv_cache_memory",
                )

    async def _put_away_one(self, *, keep: ServedModel) -> bool:
        """Put away the least recently used model, once nobody uses it; return whether there was one."""
        loaded = [model for model in self.models if model.llm is not None and model is not keep]
        if not loaded:
            return False
        victim = min(loaded, key=lambda model: (model.num_leases > 0, model.last_used_s))
        victim.retiring = True
        while victim.num_leases:
            self._news.clear()
            await self._news.wait()
        if victim.llm is not None:  # it may have died meanwhile
            await self._retire(victim)
        logger.info("model %s was put away", victim.name)
        return True

    async def _retire(self, model: ServedModel, state: ModelState = ModelState.IDLE) -> None:
        llm, model.llm, model.state, model.held_bytes = model.llm, None, state, 0
        model.retiring = False
        assert llm is not None
        await self._source.put_away(llm)

    def _fail(self, model: ServedModel, error: Exception) -> None:
        model.state, model.error = ModelState.FAILED, error
        _tell(model, unavailable(f"the model {model.name} could not be loaded"))


def _check_not_down(model: ServedModel) -> None:
    if model.down_until_s is None:
        return
    wait_s = model.down_until_s - now_s()
    if wait_s > 0:
        retry_after_s = min(wait_s, _LONG_S)
        raise unavailable(f"the engine of {model.name} has died; see the server's log", retry_after_s=retry_after_s)
    model.down_until_s = None


def _tell(model: ServedModel, error: ApiError) -> None:
    """End the waiting of all who wait for a model."""
    for waiter in model.waiters:
        if not waiter.done():
            waiter.set_exception(error)
    model.waiters.clear()
