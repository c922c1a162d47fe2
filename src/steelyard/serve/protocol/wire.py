"""What all requests have in common: strict JSON, unknown fields refused by name, and the sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from steelyard.core.errors import ParamsError
from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason
from steelyard.serve.errors import invalid
from steelyard.serve.generation import GenerationRequest, Usage
from steelyard.serve.keys import Principal
from steelyard.serve.tools.plan import ToolPlan

# Names of SamplingParams that requests use as they are.
_SAME_NAMES = (
    "n", "min_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "seed", "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "prompt_logprobs", "skip_special_tokens",
)  # fmt: skip


def _fail_fast(schema: Any) -> None:
    """Say so to every list and mapping in a schema."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, (list, tuple)) else ()
    if isinstance(schema, dict) and schema.get("type") in ("list", "dict"):
        schema["fail_fast"] = True
    for part in parts:
        _fail_fast(part)


class WireModel(BaseModel):
    """A JSON object of the API: fields are known or refused, ``null`` is as good as absent, no type is bent."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Give lists and mappings up at their first fault: to tell millions of them would take half a minute."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


class StreamOptions(WireModel):
    """``stream_options``."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = Field(default=None, description="Accepted and ignored.")


class GenerationFields(WireModel):
    """Fields of every request that generates text: OpenAI's, then vLLM's, then those without an effect."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    top_k: int | None = Field(default=None, description="0 or -1 keeps all tokens.")
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    priority: int | None = Field(default=None, ge=-(1 << 31), lt=1 << 31, description="Lower is sooner.")
    cache_salt: str | None = Field(default=None, max_length=256)
    timeout: float | None = Field(
        default=None, gt=0, le=1e6, description="Seconds after which the answer ends as it is."
    )

    user: str | None = Field(default=None, description="Accepted and ignored, as the next ones.")
    metadata: dict[str, JsonValue] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def always_includes_usage(self) -> bool:
        """Whether every chunk of a stream has the usage so far."""
        options = self.stream_options
        return self.includes_usage and options is not None and options.continuous_usage_stats is True

    def check_stream(self) -> None:
        """Raise :class:`ApiError` if there are options for a stream and no stream, or what no stream can have."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options: only a stream has them. Set stream to true.", param="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise invalid("prompt_logprobs: no stream has them. Set stream to false.", param="prompt_logprobs")

    def sampling_params(self, defaults: SamplingParams, **more: Any) -> SamplingParams:
        """Return ``defaults`` with what the request says, and ``more``, in their place.

        Raises:
            ParamsError: if a value is out of range.
        """
        given = {name: getattr(self, name) for name in _SAME_NAMES}
        changes = {name: value for name, value in given.items() if value is not None}
        if self.top_k is not None:
            changes["top_k"] = None if self.top_k in (0, -1) else self.top_k
        if self.stop is not None:
            changes["stop"] = self.stop
        if self.logit_bias is not None:
            changes["logit_bias"] = {_token_id(token): bias for token, bias in self.logit_bias.items()}
        return replace(defaults, **{**changes, **more})

    def generation(
        self,
        id: str,
        prompts: tuple[tuple[int, ...], ...],
        params: SamplingParams,
        principal: Principal,
        tools: ToolPlan | None = None,
    ) -> GenerationRequest:
        """Return what the engines are asked for."""
        return GenerationRequest(
            id=id,
            prompts=prompts,
            params=params,
            principal=principal,
            priority=self.priority or 0,
            cache_salt=self.cache_salt or "",
            timeout_s=self.timeout,
            tools=tools,
        )


def _token_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ParamsError(f"{text!r:.40} is no token id", field="logit_bias", remedy="Give token ids as keys")
    return int(text)


class PromptTokensDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int


class UsageAnswer(TypedDict):
    """``usage``."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_answer(usage: Usage) -> UsageAnswer:
    """Return the usage in the API's words."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
    }


_FINISH: Mapping[FinishReason, Literal["stop", "length"]] = {
    FinishReason.STOP: "stop",
    # Clients know no word for these; stop_reason tells them apart.
    FinishReason.LENGTH: "length",
    FinishReason.DEADLINE: "length",
    FinishReason.CANCELLED: "length",
}


def finish_word(reason: FinishReason | None) -> Literal["stop", "length"] | None:
    """Return ``finish_reason`` in the API's words."""
    return None if reason is None else _FINISH[reason]


def stop_reason(reason: FinishReason | None, stop: str | int | None) -> str | int | None:
    """Return vLLM's ``stop_reason``: the stop string or token, or why the completion was cut short."""
    return reason.value if reason in (FinishReason.DEADLINE, FinishReason.CANCELLED) else stop
