"""Loading a model for a command: the one place where the command line makes an :class:`LLM`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from steelyard.cli.options import DEFAULT_MAX_TOKENS, EngineOptions, SamplingOptions
from steelyard.cli.output import configure_logging, working
from steelyard.core.clock import Stopwatch
from steelyard.core.params import SamplingParams
from steelyard.core.request import RequestOutput
from steelyard.engine.llm import LLM
from steelyard.models.catalogue import default_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready, and how long that took."""

    llm: LLM
    load_s: float

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.llm.engine.parts.name

    @property
    def has_chat_template(self) -> bool:
        """Whether the model knows conversations."""
        return self.llm.engine.parts.chat_template is not None

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self.llm.engine.parts.engine_config.max_model_len

    def stream(self, prompt_token_ids: tuple[int, ...], params: SamplingParams) -> Generator[RequestOutput]:
        """Yield the growing output of one request; closing the generator cancels it."""
        yield from self.llm.stream_outputs(prompt_token_ids, params)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.llm.engine.parts.model.config.vocab_size


@contextmanager
def loaded_model(options: EngineOptions, **more: Any) -> Iterator[Loaded]:
    """Load a model, show that it is being loaded, and close it in the end.

    Args:
        options: the user's.
        **more: further fields of ``LLMOptions``.
    """
    configure_logging()
    keywords = options.keywords()
    with Stopwatch() as watch, working(f"Loading {options.model or default_model()}"):
        llm = LLM(options.model, **keywords, **more)
    with llm:
        yield Loaded(llm=llm, load_s=watch.elapsed_s)


def sampling_params(loaded: Loaded, options: SamplingOptions, num_prompt_tokens: int) -> SamplingParams:
    """Return the model's own sampling parameters with the user's in their place.

    Without ``--max-tokens`` an answer has 256 tokens at most, or as many as the context leaves after the prompt.
    """
    room = max(1, loaded.max_model_len - num_prompt_tokens)
    usual: dict[str, Any] = {"max_tokens": min(DEFAULT_MAX_TOKENS, room), "min_tokens": 0}
    return replace(loaded.llm.default_params, **{**usual, **options.keywords()})
