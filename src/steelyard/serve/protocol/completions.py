"""``/v1/completions``: the request, and the dialect that answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, RequestOutput, SampledToken
from steelyard.serve.errors import invalid
from steelyard.serve.generation import Generation, Increment
from steelyard.serve.protocol.logprobs import CompletionLogprobs, PromptLogprobs, completion_logprobs, prompt_logprobs
from steelyard.serve.protocol.structured import StructuredFields
from steelyard.serve.protocol.wire import GenerationFields, UsageAnswer, finish_word, stop_reason, usage_answer
from steelyard.serve.sse import DONE, ServerEvent

DEFAULT_MAX_TOKENS = 16  # OpenAI's
Prompt = str | list[int]


class CompletionRequest(GenerationFields, StructuredFields):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = None
    add_special_tokens: bool | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = Field(default=None, description="Refused: no model here fills in the middle.")

    def check(self) -> None:
        """Raise :class:`ApiError` for fields that contradict each other or are not supported."""
        self.check_stream()
        if self.suffix:
            raise invalid("suffix: filling in the middle is not supported. Leave it out.", param="suffix")
        if self.best_of is not None and self.best_of != (1 if self.n is None else self.n):
            raise invalid("best_of: choosing among completions is not supported. Make it equal to n.", param="best_of")
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens: 0 leaves nothing to answer without echo. Give at least 1.", param="max_tokens")

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]

    @property
    def answers_nothing(self) -> bool:
        """Whether only the prompt is to be given back; the engine's one token is then dropped."""
        return self.max_tokens == 0

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return the sampling parameters."""
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else max(1, self.max_tokens)
        more: dict[str, Any] = {"max_tokens": limit, "logprobs": self.logprobs, "constraint": self.constraint()}
        if self.echo and self.logprobs is not None:
            more["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        return self.sampling_params(defaults, **more)


class CompletionChoice(TypedDict):
    """One completion, or what is added to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | int | None
    prompt_logprobs: NotRequired[PromptLogprobs | None]


class CompletionHead(TypedDict):
    """What every answer begins with."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None


class CompletionAnswer(CompletionHead):
    """``text_completion``."""

    choices: list[CompletionChoice]
    usage: UsageAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDialect:
    """Writes a generation as ``text_completion``, whole or in chunks.

    Attributes:
        request: what was asked.
        id: the answer's.
        created: seconds since 1970.
        offsets: characters of each choice's text that were streamed.
    """

    request: CompletionRequest
    id: str
    created: int
    offsets: dict[int, int] = field(default_factory=dict)

    def answer(self, generation: Generation) -> CompletionAnswer:
        """Return the whole answer."""
        choices = [
            self._choice(prompt_index, output, completion, generation)
            for prompt_index, output in enumerate(generation.outputs)
            for completion in output.outputs
        ]
        return {**self._head(generation), "choices": choices, "usage": self._usage(generation)}

    async def events(self, generation: Generation) -> AsyncIterator[ServerEvent]:
        """Yield the chunks as the completions grow."""
        async for gain in generation.increments():
            for choice in self._pieces(gain, generation):
                yield self._chunk(generation, choice)
        if self.request.includes_usage:
            yield self._chunk(generation, None)
        yield DONE

    def _choice(
        self, prompt_index: int, output: RequestOutput, completion: CompletionOutput, generation: Generation
    ) -> CompletionChoice:
        text, tokens = self._echoed(prompt_index, output, generation)
        if not self.request.answers_nothing:
            text += completion.text
            tokens += _sampled(completion.token_ids, completion.logprobs)
        return {
            "index": prompt_index * generation.request.params.n + completion.index,
            "text": text,
            "logprobs": self._logprobs(tokens, generation, 0),
            "finish_reason": finish_word(completion.finish_reason),
            "stop_reason": stop_reason(completion.finish_reason, completion.stop_reason),
            "prompt_logprobs": self._prompt_logprobs(output, generation),
        }

    def _prompt_logprobs(self, output: RequestOutput, generation: Generation) -> PromptLogprobs | None:
        asked = self.request.prompt_logprobs is not None  # echo makes the engine compute them, too
        return prompt_logprobs(output.prompt_logprobs, generation.tokenizer) if asked else None

    def _pieces(self, gain: Increment, generation: Generation) -> list[CompletionChoice]:
        """Return what an increment adds to the stream: with echo, the first one brings the prompt."""
        index = gain.prompt_index * generation.request.params.n + gain.index
        begins = index not in self.offsets
        text = ""
        tokens: list[tuple[int, SampledToken | None]] = []
        if begins:
            self.offsets[index] = 0
            text, tokens = self._echoed(gain.prompt_index, generation.outputs[gain.prompt_index], generation)
        if not self.request.answers_nothing:
            text += gain.text
            tokens += _sampled(gain.token_ids, gain.logprobs)
        if not text and gain.finish_reason is None and self.request.logprobs is None:
            return []
        logprobs = self._logprobs(tokens, generation, self.offsets[index])
        self.offsets[index] += len(text)
        return [
            {
                "index": index,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": finish_word(gain.finish_reason),
                "stop_reason": stop_reason(gain.finish_reason, gain.stop_reason),
            }
        ]

    def _echoed(
        self, prompt_index: int, output: RequestOutput, generation: Generation
    ) -> tuple[str, list[tuple[int, SampledToken | None]]]:
        """Return the prompt's text and tokens, as far as the request wants them back."""
        if not self.request.echo:
            return "", []
        prompt = self.request.prompts[prompt_index]
        tokens = output.prompt_logprobs or (None,) * len(output.prompt_token_ids)
        entries = list(zip(output.prompt_token_ids, tokens, strict=True))
        if isinstance(prompt, str):
            return prompt, entries
        assert generation.tokenizer is not None
        return generation.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False), entries

    def _chunk(self, generation: Generation, choice: CompletionChoice | None) -> ServerEvent:
        chunk: dict[str, Any] = {**self._head(generation), "choices": [] if choice is None else [choice]}
        if self.request.includes_usage:
            told = choice is None or self.request.always_includes_usage
            chunk["usage"] = self._usage(generation) if told else None
        return ServerEvent(chunk)

    def _head(self, generation: Generation) -> CompletionHead:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": generation.model,
            "system_fingerprint": None,
        }

    def _usage(self, generation: Generation) -> UsageAnswer:
        usage = usage_answer(generation.usage)
        if self.request.answers_nothing:
            usage["completion_tokens"], usage["total_tokens"] = 0, usage["prompt_tokens"]
        return usage

    def _logprobs(
        self, tokens: Sequence[tuple[int, SampledToken | None]], generation: Generation, offset: int
    ) -> CompletionLogprobs | None:
        if self.request.logprobs is None or generation.tokenizer is None:
            return None
        return completion_logprobs(tokens, generation.tokenizer, offset)


def _sampled(
    token_ids: Sequence[int], logprobs: Sequence[SampledToken] | None
) -> list[tuple[int, SampledToken | None]]:
    return list(zip(token_ids, logprobs if logprobs is not None else [None] * len(token_ids), strict=True))
