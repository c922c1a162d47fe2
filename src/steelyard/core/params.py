"""How a request wants its tokens chosen: :class:`SamplingParams`, validated when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKENS = 256
MAX_LOGIT_BIAS = 1024
MAX_TOKENS_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Parameters of one request's sampling; names and defaults follow vLLM's.

    Attributes:
        n: completions per prompt, 1…128.
        max_tokens: tokens to generate per completion; ``None`` means up to the context length.
        min_tokens: end-of-sequence and stop tokens are forbidden, and stop strings ignored, before this many tokens.
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; ``None`` keeps all.
        top_p: keep the smallest set whose probability reaches top_p, (0, 1].
        min_p: keep tokens at least min_p times as likely as the likeliest, [0, 1].
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens seen in prompt or output.
        frequency_penalty: −2…2; subtracted once per occurrence in the output.
        presence_penalty: −2…2; subtracted once if the token occurred in the output.
        logit_bias: token id → value in −100…100 added to its logit.
        seed: same seed, same tokens, whatever the neighbours; ``None`` draws a seed from the engine's generator.
        stop: strings that end the completion; not part of the text unless ``include_stop_str_in_output``.
        stop_token_ids: tokens that end the completion.
        ignore_eos: go on after the end-of-sequence token.
        logprobs: return the log-probability of each token and of this many likeliest alternatives, 0…20.
        prompt_logprobs: likewise for the prompt's tokens.
        skip_special_tokens: leave control tokens out of the text.
        constraint: what the text must look like. It goes before ``min_tokens`` and ``ignore_eos``: the completion ends
            where nothing else may follow, and the end-of-sequence token always ends it. ``max_tokens``, ``stop`` and
            ``stop_token_ids`` may cut the text short.

    Raises:
        ParamsError: if a value is out of range; it names the field.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _normalise(self)
        _check_counts(self)
        _check_reals(self)
        _check_collections(self)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on the tokens seen so far."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


def _normalise(params: SamplingParams) -> None:
    """Accept a bare string or any sequence for the collection fields, and store tuples."""
    stop: object = params.stop
    object.__setattr__(params, "stop", (stop,) if isinstance(stop, str) else tuple(params.stop or ()))
    object.__setattr__(params, "stop_token_ids", tuple(params.stop_token_ids or ()))
    object.__setattr__(params, "logit_bias", dict(params.logit_bias or {}))


def _check_counts(params: SamplingParams) -> None:
    _check_int("n", params.n, 1, MAX_N)
    if params.max_tokens is not None:
        _check_int("max_tokens", params.max_tokens, 1, MAX_TOKENS_LIMIT)
    _check_int("min_tokens", params.min_tokens, 0, MAX_TOKENS_LIMIT)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise ParamsError(
            f"{params.min_tokens} is more than max_tokens ({params.max_tokens})",
            field="min_tokens",
            remedy="Lower min_tokens or raise max_tokens",
        )
    if params.top_k is not None:
        _check_int("top_k", params.top_k, 1, MAX_TOKENS_LIMIT, remedy="Use None to keep all tokens")
    if params.seed is not None:
        _check_int("seed", params.seed, -(1 << 63), (1 << 64) - 1)
    if params.logprobs is not None:
        _check_int("logprobs", params.logprobs, 0, MAX_LOGPROBS)
    if params.prompt_logprobs is not None:
        _check_int("prompt_logprobs", params.prompt_logprobs, 0, MAX_LOGPROBS)


def _check_reals(params: SamplingParams) -> None:
    _check_real("temperature", params.temperature, 0.0, 100.0)
    _check_real("top_p", params.top_p, 0.0, 1.0)
    if params.top_p == 0.0:
        raise ParamsError("0 would keep no token", field="top_p", remedy="Use temperature=0 for greedy decoding")
    _check_real("min_p", params.min_p, 0.0, 1.0)
    _check_real("repetition_penalty", params.repetition_penalty, 0.0, 100.0)
    if params.repetition_penalty == 0.0:
        raise ParamsError("must be above 0", field="repetition_penalty", remedy="Use 1.0 for no penalty")
    _check_real("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _check_real("presence_penalty", params.presence_penalty, -2.0, 2.0)


def _check_collections(params: SamplingParams) -> None:
    if params.constraint is not None and not isinstance(params.constraint, Constraint):
        raise ParamsError("it is no Constraint", field="constraint", remedy="Make one, as with Constraint.regex(…)")
    _check_size("stop", len(params.stop), MAX_STOP_STRINGS)
    for text in params.stop:
        if not isinstance(text, str) or not text:
            raise ParamsError("a stop string is empty or no string", field="stop", remedy="Remove it")
        _check_size("stop", len(text), MAX_STOP_LENGTH)
    _check_size("stop_token_ids", len(params.stop_token_ids), MAX_STOP_TOKENS)
    for token in params.stop_token_ids:
        _check_int("stop_token_ids", token, 0, MAX_TOKENS_LIMIT)
    _check_size("logit_bias", len(params.logit_bias), MAX_LOGIT_BIAS)
    for token, bias in params.logit_bias.items():
        _check_int("logit_bias", token, 0, MAX_TOKENS_LIMIT)
        _check_real("logit_bias", bias, -100.0, 100.0)


def _check_int(name: str, number: object, low: int, high: int, remedy: str | None = None) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        problem = f"{number!r} is not a whole number from {low} to {high}"
        raise ParamsError(problem, field=name, remedy=remedy or "Give a value in that range")


def _check_real(name: str, number: object, low: float, high: float) -> None:
    is_real = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not is_real or not low <= float(number) <= high:  # type: ignore[arg-type]
        problem = f"{number!r} is not a number from {low:g} to {high:g}"
        raise ParamsError(problem, field=name, remedy="Give a value in that range")


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ParamsError(f"{size} is over the limit of {limit}", field=name, remedy="Give fewer or shorter entries")
