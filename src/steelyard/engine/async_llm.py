"""The asynchronous front door: prompts in, growing outputs out, on the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor

from steelyard.core.clock import now_s
from steelyard.core.params import SamplingParams
from steelyard.core.pooling import NO_SAMPLING, PoolingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.cost.profile import Profile
from steelyard.engine.build import LLMOptions, Parts, build_parts
from steelyard.engine.engine import Engine, EngineResponse
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.pricing import Pricing, pricing_of
from steelyard.engine.probe import TextScore
from steelyard.engine.prompter import Message, Prompt, Prompter
from steelyard.engine.torch_executor import InlineExecutor, TorchExecutor
from steelyard.engine.view import Observer
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.policies.schedule.vtc import VtcPolicy


class AsyncLLM:
    """A model behind an engine. Construct it anywhere (it loads the model); use it within one event loop.

    Args:
        model: catalogue name, ``.gguf`` file, Hugging Face directory or hub id; ``None`` for the default model.
        observers: called after each engine step.
        executor: makes what computes the steps; :class:`~steelyard.engine.torch_executor.InlineExecutor` for a loop
            that has nothing else to do.
        **options: fields of :class:`~steelyard.engine.build.LLMOptions`.

    Raises:
        ModelError: if the model is unknown, unsupported or broken.
        MemoryBudgetError: if weights and KV cache do not fit this machine.
        ParamsError: if an option is out of range.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        observers: tuple[Observer, ...] = (),
        executor: Callable[[ModelRunner], TorchExecutor | InlineExecutor] = TorchExecutor,
        **options: Any,
    ) -> None:
        self.parts: Parts = build_parts(model, LLMOptions.from_keywords(options))
        self._prompter = Prompter(self.parts.name, self.parts.tokenizer, self.parts.chat_template)
        self._executor = executor(self.parts.runner)
        self._observers = observers
        self._request_ids = count()
        self._engine: Engine | None = None
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def default_params(self) -> SamplingParams:
        """Sampling parameters that the model's own generation defaults suggest."""
        return self.parts.default_params

    @property
    def is_up(self) -> bool:
        """Whether its engine takes requests."""
        return self._engine is None or not self._engine.closed

    def start(self) -> Engine:
        """Start stepping on the running event loop, if not started yet, and return the engine."""
        if self._engine is None:
            self._engine = self.parts.make_engine(self._executor, self._observers)
            self._loop_task = asyncio.get_running_loop().create_task(self._engine.run())
        return self._engine

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Yield the request's cumulative output whenever it grows, the finished one last.

        Waits while the engine's queue is full. Leaving the iteration early cancels the request.

        Args:
            prompt: text, or token ids.
            params: ``None`` for :attr:`default_params`.
            request_id: must be unique; ``None`` makes one.
            priority: lower is sooner (used by the ``priority`` policy).
            cache_salt: prefixes are shared only within one salt.
            tenant: who is charged for it (used by the ``vtc`` policy).
            timeout_s: after this many seconds the output ends with the finish reason ``deadline``.

        Raises:
            InputError: if prompt or params cannot be served.
        """
        response = await self.submit(
            prompt,
            params,
            request_id=request_id,
            priority=priority,
            cache_salt=cache_salt,
            tenant=tenant,
            timeout_s=timeout_s,
        )
        try:
            async for output in response.outputs():
                yield output
        finally:
            if not response.finished:
                self.start().cancel(response.request.id)

    async def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        timeout_s: float | None = None,
        pooling: PoolingParams | None = None,
    ) -> EngineResponse:
        """Queue a request, waiting for room, and return its response; see :meth:`generate`.

        With ``pooling`` the response gets the prompt's vector and no tokens; ``params`` must be ``NO_SAMPLING`` then.
        """
        engine = self.start()
        chosen = params if params is not None else self.default_params
        await self.prepare(chosen)
        await engine.wait_for_room()
        request = Request(
            id=request_id if request_id is not None else f"request-{next(self._request_ids)}",
            prompt_token_ids=self.encode(prompt),
            params=chosen,
            priority=priority,
            cache_salt=cache_salt,
            tenant=tenant,
            deadline_s=None if timeout_s is None else now_s() + timeout_s,
            pooling=pooling,
        )
        return engine.submit(request)

    async def prepare(self, params: SamplingParams) -> None:
        """Compile the constraint of ``params``, if there is one, off the event loop; :meth:`submit` does it too.

        For those who submit to the engine themselves, which would compile it on the event loop.

        Raises:
            ParamsError: if it is wrong, too complex or takes too long, or the model has no tokenizer.
        """
        if self.parts.grammars is not None:
            await self.parts.grammars.prepare(params)

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Say what each tenant is due relative to the others; without the ``vtc`` policy it means nothing."""
        policy = self.start().policy
        if isinstance(policy, VtcPolicy):
            policy.reconfigure(replace(policy.config, shares=shares))

    def pricing(self, profile: Profile) -> Pricing:
        """Return what the model's steps are priced by; see :func:`~steelyard.engine.pricing.pricing_of`.

        Raises:
            InputError: if the profile knows nothing of the model's device.
        """
        return pricing_of(self.parts, profile)

    async def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary, with the finish reason ``cancelled``."""
        self.start().cancel(request_id)

    def encode(self, prompt: Prompt, *, parse_special: bool = False) -> tuple[int, ...]:
        """Return the prompt's token ids; control tokens in text stay text unless ``parse_special``."""
        return self._prompter.encode(prompt, parse_special=parse_special)

    def encode_chat(self, messages: Sequence[Message], **template_arguments: Any) -> tuple[int, ...]:
        """Return the token ids of a conversation in the model's chat template, ready for the assistant's turn.

        Raises:
            PromptError: if a message is malformed, or the model has no chat template.
            ModelError: if the model has no tokenizer.
        """
        return self._prompter.encode_chat(messages, **template_arguments)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ModelError: if the model came without one.
        """
        return self._prompter.tokenizer

    async def score(self, texts: Sequence[Prompt]) -> list[TextScore]:
        """Return each text's token log-probabilities (natural log), in order."""
        encoded = [self.encode(text) for text in texts]
        return [await self._executor.call(partial(self.parts.prober.score, ids)) for ids in encoded]

    async def embed(self, texts: Sequence[Prompt], pooling: PoolingParams | None = None) -> Tensor:
        """Return ``[texts, hidden_size]`` float32: each text's hidden states as one vector, whatever runs beside it.

        Args:
            texts: texts, or token ids; they are batched with all else that the engine does.
            pooling: ``None`` for the mean of the hidden states after the final norm, scaled to length one.

        Raises:
            InputError: if any text cannot be served; the others are cancelled then.
        """
        responses: list[EngineResponse] = []
        try:
            for ids in [self.encode(text) for text in texts]:
                responses += [await self.submit(ids, NO_SAMPLING, pooling=pooling or PoolingParams())]
            return torch.tensor([(await response.result()).pooled for response in responses])
        finally:
            for response in responses:
                if not response.finished:
                    await self.cancel(response.request.id)

    async def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return ``[tokens, vocab_size]`` float32 logits: row i predicts token i + 1."""
        ids = self.encode(token_ids)
        return await self._executor.call(partial(self.parts.prober.logits, ids))

    async def stopped(self) -> BaseException | None:
        """Wait until the engine steps no more; return what it died of, or ``None`` if it was closed in order."""
        self.start()
        assert self._loop_task is not None
        await asyncio.wait({self._loop_task})
        return None if self._loop_task.cancelled() else self._loop_task.exception()

    async def close(self) -> None:
        """Stop the engine; unfinished requests end with an error."""
        if self._engine is None:
            await self._executor.close()
            return
        await self._engine.close()
        assert self._loop_task is not None
        await asyncio.gather(self._loop_task, return_exceptions=True)  # its requests were told what it died of
