"""What a request must satisfy before the engine takes it: checked once, at the front door."""

from __future__ import annotations

from steelyard.core.errors import ParamsError, PromptError
from steelyard.core.pooling import NO_SAMPLING
from steelyard.core.request import Request
from steelyard.engine.config import EngineConfig
from steelyard.engine.sampling import validate_against_vocab


def check_request(request: Request, config: EngineConfig, vocab_size: int, *, has_text: bool) -> None:
    """Raise if the engine cannot serve ``request``.

    Raises:
        PromptError: if the prompt (with output that exists already) is empty, too long, or holds an id outside the
            vocabulary.
        ParamsError: if ``max_tokens`` exceeds the context, a token id does not exist, or stop strings are asked of an
            engine without a tokenizer; if there is output to continue and more than one completion; or if a prompt that
            is pooled has sampling parameters or output.
    """
    params = request.params
    if request.pooling is not None and params != NO_SAMPLING:
        problem = "a prompt that is pooled is not continued"
        raise ParamsError(problem, field="params", remedy="Give NO_SAMPLING in their place")
    output = tuple(token.token_id for token in request.output)
    check_prompt(request.prompt_token_ids + output, config.max_model_len, vocab_size)
    if output and request.pooling is not None:
        raise ParamsError("a prompt that is pooled has none", field="output", remedy="Make it part of the prompt")
    if output and params.n > 1:
        raise ParamsError(f"{params.n} completions cannot share it", field="output", remedy="Continue them one by one")
    if params.max_tokens is not None and params.max_tokens > config.max_model_len:
        raise ParamsError(
            f"{params.max_tokens} is more than the context of {config.max_model_len} tokens",
            field="max_tokens",
            remedy=f"Ask for at most {config.max_model_len - len(request.prompt_token_ids)} tokens here",
        )
    if params.stop and not has_text:
        raise ParamsError("stop strings need a tokenizer", field="stop", remedy="Use stop_token_ids")
    validate_against_vocab(params, vocab_size)


def check_prompt(token_ids: tuple[int, ...], max_model_len: int, vocab_size: int) -> None:
    """Raise :class:`PromptError` unless ``token_ids`` is a prompt that leaves room for one token."""
    if not token_ids:
        raise PromptError("it is empty", field="prompt", remedy="Give at least one token")
    if len(token_ids) >= max_model_len:
        raise PromptError(
            f"{len(token_ids)} tokens do not fit in the context of {max_model_len} and leave room for an answer",
            field="prompt",
            remedy=f"Shorten it to at most {max_model_len - 1} tokens, or raise max_model_len",
        )
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        wrong = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise PromptError(
            f"token id {wrong} is outside the vocabulary of {vocab_size}",
            field="prompt_token_ids",
            remedy="Tokenize with this model's tokenizer",
        )
