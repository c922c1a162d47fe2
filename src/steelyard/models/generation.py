"""What a model's files recommend for sampling: :class:`GenerationDefaults`, from ``generation_config.json``."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.core.params import SamplingParams
from steelyard.models.config import ModelConfig
from steelyard.models.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Recommended sampling; ``None`` where the files recommend nothing.

    Attributes:
        temperature: 0 for a model whose file says not to sample.
        top_k: ``None`` also for "all".
        eos_token_ids: every token that ends a text, in ascending order.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    def sampling_params(self) -> SamplingParams:
        """Return these as parameters, with the common defaults for what is not recommended."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
        )


def generation_defaults(keys: Keys, config: ModelConfig) -> GenerationDefaults:
    """Return what ``generation_config.json`` recommends; its end tokens are added to the configuration's.

    Raises:
        ModelError: if a value has the wrong type or is out of range.
    """
    eos = set(config.eos_token_ids) | set(keys.integers("eos_token_id"))
    for token in eos:
        if not 0 <= token < config.vocab_size:
            raise keys.wrong("eos_token_id", f"{token} is not in a vocabulary of {config.vocab_size}")
    temperature, top_p = keys.optional_number("temperature"), keys.optional_number("top_p")
    if temperature is not None and temperature < 0:
        raise keys.wrong("temperature", f"{temperature} is negative")
    if top_p is not None and not 0 < top_p <= 1:
        raise keys.wrong("top_p", f"{top_p} is not above 0 and at most 1")
    top_k = keys.optional_integer("top_k")
    if not keys.flag("do_sample", True):
        temperature = 0.0
    return GenerationDefaults(
        temperature=temperature,
        top_k=top_k if top_k and top_k > 0 else None,
        top_p=top_p,
        eos_token_ids=tuple(sorted(eos)),
    )
