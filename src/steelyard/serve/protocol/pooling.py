"""What requests for vectors have in common: whose, how soon, and how a text becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from steelyard.core.errors import InputError
from steelyard.core.pooling import NO_SAMPLING, PoolingKind, PoolingParams
from steelyard.core.request import RequestOutput
from steelyard.serve.errors import invalid, unavailable
from steelyard.serve.generation import GenerationRequest, Usage
from steelyard.serve.keys import Principal
from steelyard.serve.llm import ServedLLM
from steelyard.serve.prompts import text_prompt
from steelyard.serve.protocol.wire import WireModel

PromptInput = str | list[int]


class PoolingFields(WireModel):
    """Fields of every request for vectors that are not OpenAI's, and those without an effect."""

    model: str | None = None
    pooling: Literal["mean", "last"] | None = Field(
        default=None, description="A text's vector: the mean of its tokens' hidden states (default), or the last one."
    )
    add_special_tokens: bool | None = None
    priority: int | None = Field(default=None, ge=-(1 << 31), lt=1 << 31, description="Lower is sooner.")
    cache_salt: str | None = Field(default=None, max_length=256)
    timeout: float | None = Field(default=None, gt=0, le=1e6, description="Seconds after which it is given up.")
    user: str | None = Field(default=None, description="Accepted and ignored.")

    async def encoded(
        self, llm: ServedLLM, texts: Sequence[PromptInput], field: str, max_tokens: int | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of all texts.

        Args:
            llm: the model.
            texts: texts or token ids.
            field: where they stand in the request, for errors.
            max_tokens: what is longer is cut off; ``None`` for nothing.

        Raises:
            ApiError: 400 if one is empty, or too long for the model.
        """
        longest = llm.parts.engine_config.max_model_len - 1
        special, found = self.add_special_tokens is not False, []
        for text in texts:
            if not text:
                raise invalid(f"{field}: a text is empty. Leave it out.", param=field)
            try:
                ids = await text_prompt(llm, text, add_special_tokens=special) if isinstance(text, str) else tuple(text)
            except InputError as error:
                raise invalid(f"{field}: {error.problem}. {error.remedy}.", param=field) from error
            ids = ids[:max_tokens]
            if len(ids) > longest:
                message = f"{field}: {len(ids)} tokens are more than the {longest} that fit. Shorten it."
                raise invalid(message, param=field, code="context_length_exceeded")
            found.append(ids)
        return tuple(found)

    def pooled(
        self, id: str, prompts: tuple[tuple[int, ...], ...], principal: Principal, *, normalize: bool = True
    ) -> GenerationRequest:
        """Return what the engines are asked for."""
        kind = PoolingKind.MEAN if self.pooling is None else PoolingKind(self.pooling)
        return GenerationRequest(
            id=id,
            prompts=prompts,
            params=NO_SAMPLING,
            principal=principal,
            priority=self.priority or 0,
            cache_salt=self.cache_salt or "",
            timeout_s=self.timeout,
            pooling=PoolingParams(kind=kind, normalize=normalize),
        )


def vector_of(output: RequestOutput) -> tuple[float, ...]:
    """Return a prompt's vector.

    Raises:
        ApiError: 503 if the prompt was given up before it was there.
    """
    if output.pooled is None:
        raise unavailable("the request was given up before it was done")
    return output.pooled


class PoolingUsage(TypedDict):
    """``usage``."""

    prompt_tokens: int
    total_tokens: int


def pooling_usage(usage: Usage) -> PoolingUsage:
    """Return the usage in the API's words."""
    return {"prompt_tokens": usage.num_prompt_tokens, "total_tokens": usage.num_prompt_tokens}
