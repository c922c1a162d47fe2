"""What every dialect boils down to: prompts in the engine, and what their completions gain, piece by piece.

A dialect turns its request into a :class:`GenerationRequest`, lets :meth:`.service.Service.generate` submit it, and
writes the :class:`Increment` s of the :class:`Generation` in its own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingParams
from steelyard.core.request import CompletionOutput, FinishReason, RequestOutput, SampledToken
from steelyard.engine.response import Completion, Response
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.serve.keys import Principal
from steelyard.serve.llm import ServedEngine
from steelyard.serve.tools.plan import ToolPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One HTTP request's work for the engine.

    Attributes:
        id: what the answer is called; the engine's requests are called after it.
        prompts: token ids, at least one prompt.
        params: of every prompt.
        principal: who asks.
        priority: lower is sooner.
        cache_salt: the client's own, within its principal's.
        timeout_s: it ends with what it has after this many seconds.
        tools: how calls are read from its text; ``None`` if there are none.
        pooling: make a vector of each prompt in place of completing it; ``params`` are ``NO_SAMPLING`` then.
    """

    id: str
    prompts: tuple[tuple[int, ...], ...]
    params: SamplingParams
    principal: Principal
    priority: int = 0
    cache_salt: str = ""
    timeout_s: float | None = None
    tools: ToolPlan | None = None
    pooling: PoolingParams | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """What one completion gained since the increment before.

    Attributes:
        prompt_index: which prompt.
        index: which of its completions.
        text: definite text, perhaps none.
        token_ids: tokens, perhaps some whose text is not definite yet.
        logprobs: one entry per token, if asked for.
        finish_reason: set on a completion's last increment.
        stop_reason: the stop string or token that ended it.
    """

    prompt_index: int
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[SampledToken, ...] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a whole HTTP request; a prompt counts once, however many completions it has."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int


class Generation:
    """A request that the engine works on.

    Args:
        request: what was asked.
        responses: the engine's, one per prompt.
        engine: whose they are.
        tokenizer: of the model; ``None`` if it came without.
        model: what answers call it.
    """

    def __init__(
        self,
        request: GenerationRequest,
        responses: Sequence[Response[Completion]],
        engine: ServedEngine,
        tokenizer: Tokenizer | None,
        model: str,
    ) -> None:
        self.request, self.model, self.tokenizer = request, model, tokenizer
        self._responses, self._engine = tuple(responses), engine
        self._latest = self.snapshots()

    @property
    def outputs(self) -> tuple[RequestOutput, ...]:
        """What is known of each prompt's completions, as of the latest increment or result."""
        return tuple(self._latest)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            num_prompt_tokens=sum(len(output.prompt_token_ids) for output in self._latest),
            num_completion_tokens=sum(len(c.token_ids) for output in self._latest for c in output.outputs),
            num_cached_tokens=sum(output.num_cached_tokens for output in self._latest),
        )

    async def result(self) -> tuple[RequestOutput, ...]:
        """Wait for the end and return each prompt's output.

        Raises:
            SteelyardError: what ended a request abnormally.
        """
        for index, response in enumerate(self._responses):
            self._latest[index] = await response.result()
        return self.outputs

    async def increments(self) -> AsyncIterator[Increment]:
        """Yield what completions gain, as it comes; steps that a slow reader missed come as one.

        Raises:
            SteelyardError: what ended a request abnormally.
        """
        news = self._news() if len(self._responses) > 1 else self._only_news()
        async for prompt_index, output in news:
            before = self._latest[prompt_index]
            self._latest[prompt_index] = output
            for old, new in zip(before.outputs, output.outputs, strict=True):
                if new.finish_reason is not old.finish_reason or len(new.token_ids) > len(old.token_ids):
                    yield _gain(prompt_index, old, new)

    def snapshots(self) -> list[RequestOutput]:
        """Return what is known of each prompt's completions now, whoever reads it."""
        return [response.snapshot() for response in self._responses]

    def cancel(self) -> None:
        """End what is unfinished at the next step boundary; its blocks are free from then on."""
        for response in self._responses:
            if not response.finished:
                self._engine.cancel(response.request.id)

    async def _only_news(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        async for output in self._responses[0].outputs():
            yield 0, output

    async def _news(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        """Yield the outputs of several prompts as they grow."""
        tasks = {asyncio.ensure_future(r.next_output()): index for index, r in enumerate(self._responses)}
        try:
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index, output = tasks.pop(task), task.result()
                    if not output.finished:
                        tasks[asyncio.ensure_future(self._responses[index].next_output())] = index
                    yield index, output
        finally:
            for task in tasks:
                task.cancel()


def _gain(prompt_index: int, old: CompletionOutput, new: CompletionOutput) -> Increment:
    return Increment(
        prompt_index=prompt_index,
        index=new.index,
        text=new.text[len(old.text) :],
        token_ids=new.token_ids[len(old.token_ids) :],
        logprobs=None if new.logprobs is None else new.logprobs[len(old.logprobs or ()) :],
        finish_reason=new.finish_reason,
        stop_reason=new.stop_reason,
    )
