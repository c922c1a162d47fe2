"""What every dialect boils down to: prompts in the engine, and what their completions gain, piece by piece.

A dialect turns its request into a :class:`GenerationRequest`, lets :meth:`.service.Service.generate` submit it, and
writes the :class:`Increment` s of the :class:`Generation` in its own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from steelyard.core.params import SamplingParams
from steelyard.core.pooling import PoolingParams
from steelyard.core.request import CompletionOutput, FinishReason, RequestOutput, SampledToken
from steelyard.engine.completion import Bookmark
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
        self._marks = [[Bookmark() for _ in response.completions] for response in self._responses]

    @property
    def outputs(self) -> tuple[RequestOutput, ...]:
        """What is known of each prompt's completions now, whoever reads it."""
        return tuple(response.snapshot() for response in self._responses)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        responses = self._responses
        return Usage(
            num_prompt_tokens=sum(len(response.request.prompt_token_ids) for response in responses),
            num_completion_tokens=sum(c.num_tokens for response in responses for c in response.completions),
            num_cached_tokens=sum(response.num_cached_tokens for response in responses),
        )

    async def result(self) -> tuple[RequestOutput, ...]:
        """Wait for the end and return each prompt's output.

        Raises:
            SteelyardError: what ended a request abnormally.
        """
        for response in self._responses:
            await response.result()
        return self.outputs

    async def increments(self) -> AsyncIterator[Increment]:
        """Yield what completions gain, as it comes; steps that a slow reader missed come as one.

        Raises:
            SteelyardError: what ended a request abnormally.
        """
        if len(self._responses) > 1:
            async for prompt_index in self._news():
                for increment in self._gained(prompt_index):
                    yield increment
            return
        ended = False
        while not ended:
            ended = await self._responses[0].news()
            for increment in self._gained(0):
                yield increment

    def cancel(self) -> None:
        """End what is unfinished at the next step boundary; its blocks are free from then on."""
        for response in self._responses:
            if not response.finished:
                self._engine.cancel(response.request.id)

    def _gained(self, prompt_index: int) -> Iterator[Increment]:
        completions = self._responses[prompt_index].completions
        for completion, mark in zip(completions, self._marks[prompt_index], strict=True):
            if (added := completion.read(mark)) is not None:
                yield _increment(prompt_index, added)

    async def _news(self) -> AsyncIterator[int]:
        """Yield which of several prompts has news, until all have ended."""
        tasks = {asyncio.ensure_future(r.news()): index for index, r in enumerate(self._responses)}
        try:
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index, ended = tasks.pop(task), task.result()
                    if not ended:
                        tasks[asyncio.ensure_future(self._responses[index].news())] = index
                    yield index
        finally:
            for task in tasks:
                task.cancel()


def _increment(prompt_index: int, added: CompletionOutput) -> Increment:
    return Increment(
        prompt_index=prompt_index,
        index=added.index,
        text=added.text,
        token_ids=added.token_ids,
        logprobs=added.logprobs,
        finish_reason=added.finish_reason,
        stop_reason=added.stop_reason,
    )
