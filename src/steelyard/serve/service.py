"""What routes talk to: the models, and the one way in which a request gets into an engine."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from itertools import count

from steelyard.core.clock import now_s
from steelyard.core.errors import ParamsError, SteelyardError
from steelyard.core.request import Request
from steelyard.engine.response import Completion, Response
from steelyard.policies.admit.types import Ask
from steelyard.serve.admission import Admission
from steelyard.serve.config import ServeConfig
from steelyard.serve.dashboard.recent import RecentRequests
from steelyard.serve.errors import invalid, unavailable
from steelyard.serve.generation import Generation, GenerationRequest
from steelyard.serve.keys import KeyRing
from steelyard.serve.llm import ServedEngine, ServedLLM
from steelyard.serve.metrics import Metrics
from steelyard.serve.pool import ModelPool, ModelSource, ServedModel
from steelyard.serve.supervise import Supervisor

logger = logging.getLogger("steelyard.serve")

# Of one request, prompts and answers together: some hundred bytes each.
MAX_LOGPROBS = 4_000_000
# What can change while the server runs; for the rest it must be started again.
_CHANGEABLE = frozenset({"access", "sharing"})


class Service:
    """The server without HTTP. Make it anywhere, use it within one event loop.

    Args:
        config: what the server was told.
        source: loads models.

    Raises:
        ParamsError: if a key is no good, or limits are given for one that is not there.
    """

    def __init__(self, config: ServeConfig, source: ModelSource) -> None:
        self.config = config
        self.keys = _key_ring(config)
        self.pool = ModelPool(config.models, source, config.model_memory_bytes, on_ready=self._watch)
        self.metrics = Metrics(config.observe.metrics_prefix, self.pool.models)
        self.recent = RecentRequests()
        self.startup_error: Exception | None = None
        self.on_startup_error: Callable[[], None] = _nothing
        self.on_drain: Callable[[], None] = _nothing
        self.admission = Admission(config, self.metrics.count_refusal)
        self._supervisor = Supervisor(self.pool, config.max_engine_restarts)
        self._active: set[Generation] = set()
        self._num_inside = 0
        self._ids = count()
        self._closing = False

    @property
    def is_ready(self) -> bool:
        """Whether requests can be answered: a model is loaded and nobody asked the server to stop."""
        return self.pool.is_ready and not self._closing

    @property
    def num_active(self) -> int:
        """Requests that use a model now, or wait for one."""
        return self._num_inside

    async def start(self) -> None:
        """Load the first model; why that failed is kept in :attr:`startup_error`, and :attr:`on_startup_error` told."""
        try:
            await self.pool.start()
        except Exception as error:
            self.startup_error = error
            self.on_startup_error()

    def drain(self) -> None:
        """Take no new requests from now on; :attr:`on_drain` is told."""
        self._closing = True
        self.on_drain()

    async def close(self) -> None:
        """End every request, with an error, and every engine."""
        self.drain()
        self._supervisor.close()
        await self.pool.close()

    def reconfigure(self, config: ServeConfig) -> None:
        """Apply what can change while the server runs: keys and limits. Other changes are named in the log, and wait.

        Raises:
            ParamsError: as the constructor does, and if no key is left where there were some; nothing has changed then.
        """
        _key_ring(config)
        if self.config.access.api_keys and not config.access.api_keys:
            # A file that is being written is empty for a moment: it must not open the server to everybody.
            problem = "no key is left, and everybody would be let in"
            raise ParamsError(problem, field="api_key", remedy="Give a key, or start the server anew without one")
        waiting = _changed(self.config, config)
        self.config = replace(self.config, **{name: getattr(config, name) for name in _CHANGEABLE})
        self.keys.replace(config.access.api_keys)
        self.admission.reconfigure(self.config)
        for model in self.pool.models:
            if model.llm is not None:
                self.admission.set_shares(model.llm)
        logger.info("the limits have been set anew")
        if waiting:
            logger.warning("these have changed too, and wait for a new start: %s", ", ".join(waiting))

    def cancel_all(self) -> None:
        """End every running request at its engine's next step boundary; clients get what there is."""
        for generation in self._active:
            generation.cancel()

    @asynccontextmanager
    async def model(self, name: str | None) -> AsyncIterator[ServedLLM]:
        """Lease a model by the name that a client gave; without one, the first.

        Raises:
            ApiError: 404 if there is none of this name, 503 if it cannot be loaded or the server is about to stop.
        """
        if self._closing:
            raise unavailable("the server is about to stop")
        self._num_inside += 1
        try:
            async with self.pool.lease(name if name is not None else self.pool.models[0].name) as llm:
                yield llm
        finally:
            self._num_inside -= 1

    @asynccontextmanager
    async def generate(self, llm: ServedLLM, request: GenerationRequest, model: str) -> AsyncIterator[Generation]:
        """Submit all prompts of a request, and cancel what is unfinished when the block is left.

        Args:
            llm: from :meth:`model`.
            request: what to do.
            model: what answers call the model.

        Raises:
            ApiError: 400 if there are too many completions or log-probabilities, or a prompt is too long; 429 if the
                key's or the engine's limits leave no room now.
            EngineBusyError: if the queue is full; nothing was queued then.
            InputError: if a prompt or parameter cannot be served; nothing was queued then.
        """
        self._check_num_completions(request)
        _check_context(request, llm.parts.engine_config.max_model_len)
        engine, responses = llm.start(), list[Response[Completion]]()
        ask = _ask(request, llm.parts.engine_config.max_model_len)
        _check_logprobs(request, ask)
        with self.admission.entered(ask, engine, lambda: _num_output_tokens(responses)):
            wanted = self._engine_requests(request)  # their time runs while a constraint is compiled, too
            await llm.prepare(request.params)
            responses += _submit_all(engine, wanted)
            generation = Generation(request, responses, engine, llm.parts.tokenizer, model)
            self._active.add(generation)
            try:
                yield generation
            finally:
                generation.cancel()
                self._active.discard(generation)
                for output in generation.outputs:
                    self.metrics.count_output(model, ask.key, output)
                    self.recent.add(model, output)

    def _engine_requests(self, request: GenerationRequest) -> list[Request]:
        timeout_s, principal = self._timeout_s(request), request.principal
        # Its length first, so that no two callers can make up one salt.
        salt = f"{len(principal.cache_salt)}:{principal.cache_salt}{request.cache_salt}"
        return [
            Request(
                id=f"{request.id}-{next(self._ids)}",
                prompt_token_ids=prompt,
                params=request.params,
                priority=self.admission.priority(principal.name, request.priority) + principal.lateness,
                cache_salt=salt,
                tenant=principal.name,
                deadline_s=None if timeout_s is None else now_s() + timeout_s,
                pooling=request.pooling,
            )
            for prompt in request.prompts
        ]

    def _timeout_s(self, request: GenerationRequest) -> float | None:
        limit_s = self.config.limits.request_timeout_s
        asked = [seconds for seconds in (request.timeout_s, limit_s) if seconds is not None]
        return min(asked, default=None)

    def _watch(self, model: ServedModel) -> None:
        assert model.llm is not None
        self.metrics.watch(model)
        self._supervisor.watch(model)
        self.admission.set_shares(model.llm)

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


def _check_logprobs(request: GenerationRequest, ask: Ask) -> None:
    """Raise :class:`ApiError` if a request could come to so many log-probabilities that they fill the memory."""
    params = request.params
    of_output = 0 if params.logprobs is None else ask.max_output_tokens * (1 + params.logprobs)
    of_prompts = 0 if params.prompt_logprobs is None else ask.num_prompt_tokens * (1 + params.prompt_logprobs)
    if of_output + of_prompts > MAX_LOGPROBS:
        message = (
            f"logprobs: {of_output + of_prompts} of them are over the limit of {MAX_LOGPROBS}. Ask for fewer, lower "
            "max_tokens or n, or send several requests."
        )
        raise invalid(message, param="logprobs")


def _key_ring(config: ServeConfig) -> KeyRing:
    """Return the keys, having checked that there are no limits for others."""
    ring = KeyRing(config.access.api_keys)
    unknown = sorted(config.sharing.keys.keys() - set(ring.names))
    if unknown:
        problem = f"there are limits for keys that do not exist: {', '.join(unknown)}"
        raise ParamsError(problem, field="keys", remedy=f"Use names of keys: {', '.join(ring.names)}")
    return ring


def _changed(old: ServeConfig, new: ServeConfig) -> list[str]:
    """Return the names of what differs and cannot be changed while the server runs."""
    names = [field.name for field in fields(ServeConfig) if field.name not in _CHANGEABLE]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def _ask(request: GenerationRequest, max_model_len: int) -> Ask:
    """Return the request as admission sees it."""

    def longest(prompt: Sequence[int]) -> int:
        room, limit = max_model_len - len(prompt), request.params.max_tokens
        return room if limit is None else min(room, limit)

    return Ask(
        key=request.principal.name,
        num_prompt_tokens=sum(len(prompt) for prompt in request.prompts),
        max_output_tokens=request.params.n * sum(longest(prompt) for prompt in request.prompts),
    )


def _num_output_tokens(responses: Sequence[Response[Completion]]) -> int:
    return sum(completion.num_tokens for response in responses for completion in response.completions)


def _nothing() -> None:
    """Nobody wants to know."""


def _submit_all(engine: ServedEngine, requests: Sequence[Request]) -> list[Response[Completion]]:
    """Submit all requests, or none."""
    responses: list[Response[Completion]] = []
    for request in requests:
        try:
            responses.append(engine.submit(request))
        except SteelyardError:
            for response in responses:
                engine.cancel(response.request.id)
            raise
    return responses
