"""What routes talk to: the models, and the one way in which a request gets into an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count

from steelyard.core.clock import now_s
from steelyard.core.errors import SteelyardError
from steelyard.core.request import Request
from steelyard.engine.async_llm import AsyncLLM
from steelyard.engine.engine import Engine
from steelyard.engine.response import Response
from steelyard.serve.config import ServeConfig
from steelyard.serve.errors import invalid, unavailable
from steelyard.serve.generation import Generation, GenerationRequest
from steelyard.serve.metrics import Metrics
from steelyard.serve.pool import ModelPool, ModelSource, ServedModel


class Service:
    """The server without HTTP. Make it anywhere, use it within one event loop.

    Args:
        config: what the server was told.
        source: loads models.
    """

    def __init__(self, config: ServeConfig, source: ModelSource) -> None:
        self.config = config
        self.pool = ModelPool(config.models, source, config.model_memory_bytes, on_ready=self._watch)
        self.metrics = Metrics(config.observe.metrics_prefix, self.pool.models)
        self.startup_error: Exception | None = None
        self.on_startup_error: Callable[[], None] = _nothing
        self._active: set[Generation] = set()
        self._ids = count()
        self._closing = False

    @property
    def is_ready(self) -> bool:
        """Whether requests can be answered: a model is loaded and nobody asked the server to stop."""
        return self.pool.is_ready and not self._closing

    @property
    def num_active(self) -> int:
        """Generations that engines work on now."""
        return len(self._active)

    async def start(self) -> None:
        """Load the first model; why that failed is kept in :attr:`startup_error`, and :attr:`on_startup_error` told."""
        try:
            await self.pool.start()
        except Exception as error:
            self.startup_error = error
            self.on_startup_error()

    def drain(self) -> None:
        """Take no new requests from now on."""
        self._closing = True

    async def close(self) -> None:
        """End every request, with an error, and every engine."""
        self.drain()
        await self.pool.close()

    def cancel_all(self) -> None:
        """End every running request at its engine's next step boundary; clients get what there is."""
        for generation in self._active:
            generation.cancel()

    @asynccontextmanager
    async def model(self, name: str | None) -> AsyncIterator[AsyncLLM]:
        """Lease a model by the name that a client gave; without one, the first.

        Raises:
            ApiError: 404 if there is none of this name, 503 if it cannot be loaded or the server is about to stop.
        """
        if self._closing:
            raise unavailable("the server is about to stop")
        async with self.pool.lease(name if name is not None else self.pool.models[0].name) as llm:
            yield llm

    @asynccontextmanager
    async def generate(self, llm: AsyncLLM, request: GenerationRequest, model: str) -> AsyncIterator[Generation]:
        """Submit all prompts of a request, and cancel what is unfinished when the block is left.

        Args:
            llm: from :meth:`model`.
            request: what to do.
            model: what answers call the model.

        Raises:
            ApiError: 400 if there are too many completions, or a prompt is longer than the context.
            EngineBusyError: if the queue is full; nothing was queued then.
            InputError: if a prompt or parameter cannot be served; nothing was queued then.
        """
        self._check_num_completions(request)
        _check_context(request, llm.parts.engine_config.max_model_len)
        engine = llm.start()
        responses = _submit_all(engine, self._engine_requests(request))
        tokenizer = llm.parts.tokenizer
        generation = Generation(request, responses, engine, tokenizer, model)
        self._active.add(generation)
        try:
            yield generation
        finally:
            generation.cancel()
            self._active.discard(generation)
            for output in generation.snapshots():
                self.metrics.count_output(model, output)

    def _engine_requests(self, request: GenerationRequest) -> list[Request]:
        timeout_s = self._timeout_s(request)
        return [
            Request(
                id=f"{request.id}-{next(self._ids)}",
                prompt_token_ids=prompt,
                params=request.params,
                priority=request.priority,
                cache_salt=f"{request.principal.cache_salt}/{request.cache_salt}",
                deadline_s=None if timeout_s is None else now_s() + timeout_s,
                pooling=request.pooling,
            )
            for prompt in request.prompts
        ]

    def _watch(self, model: ServedModel) -> None:
        self.metrics.watch(model)

    def _timeout_s(self, request: GenerationRequest) -> float | None:
        limit_s = self.config.limits.request_timeout_s
        asked = [seconds for seconds in (request.timeout_s, limit_s) if seconds is not None]
        return min(asked, default=None)

    def check_num_prompts(self, num_prompts: int, field: str = "prompt") -> None:
        """Raise :class:`ApiError` unless one request may have so many prompts: before the work of tokenizing them."""
        limit = self.config.limits.max_prompts
        if not 1 <= num_prompts <= limit:
            raise invalid(f"{field}: {num_prompts} texts are not from 1 to {limit}. Send others.", param=field)

    def _check_num_completions(self, request: GenerationRequest) -> None:
        limit, total = self.config.limits.max_completions, len(request.prompts) * request.params.n
        if total > limit:
            message = f"n: {total} completions are over the limit of {limit}. Send several requests."
            raise invalid(message, param="n")


def _check_context(request: GenerationRequest, max_model_len: int) -> None:
    """Raise :class:`ApiError` if a prompt is too long: clients know this error by its code."""
    longest = max(len(prompt) for prompt in request.prompts)
    if longest >= max_model_len:
        message = (
            f"prompt: {longest} tokens do not fit in the context of {max_model_len} and leave room for an answer. "
            "Shorten it."
        )
        raise invalid(message, param="prompt", code="context_length_exceeded")


def _nothing() -> None:
    """Nobody wants to know."""


def _submit_all(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """Submit all requests, or none."""
    responses: list[Response] = []
    for request in requests:
        try:
            responses.append(engine.submit(request))
        except SteelyardError:
            for response in responses:
                engine.cancel(response.request.id)
            raise
    return responses
