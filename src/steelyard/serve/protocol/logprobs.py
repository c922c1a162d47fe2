"""Log-probabilities in the words of ``/v1/chat/completions`` and of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from steelyard.core.request import SampledToken, TokenLogprob
from steelyard.models.text.tokenizer import Tokenizer

# What JSON can say of a token that the model holds for impossible.
_LEAST = -9999.0


class TokenEntry(TypedDict):
    """One token in a chat's log-probabilities."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TokenEntry):
    """One token of the answer, and the likeliest in its place."""

    top_logprobs: list[TokenEntry]


class ChatLogprobs(TypedDict):
    """``choices[].logprobs`` of a chat."""

    content: list[ChatToken]
    refusal: None


class CompletionLogprobs(TypedDict):
    """``choices[].logprobs`` of a completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptEntry(TypedDict):
    """One token in vLLM's ``prompt_logprobs``."""

    logprob: float
    rank: int
    decoded_token: str


# For each token of the prompt, by token id as text: its own entry and the likeliest ones'; ``None`` for the first.
PromptLogprobs = list[dict[str, PromptEntry] | None]


def prompt_logprobs(tokens: Sequence[SampledToken | None] | None, tokenizer: Tokenizer | None) -> PromptLogprobs | None:
    """Return a prompt's entries, if they were asked for."""
    if tokens is None or tokenizer is None:
        return None
    return [None if token is None else _prompt_entries(token, tokenizer) for token in tokens]


def _prompt_entries(token: SampledToken, tokenizer: Tokenizer) -> dict[str, PromptEntry]:
    assert token.logprob is not None
    return {
        str(entry.token_id): {
            "logprob": max(entry.logprob, _LEAST),
            "rank": entry.rank,
            "decoded_token": tokenizer.token_text(entry.token_id),
        }
        for entry in (token.logprob, *token.top_logprobs)
    }


def chat_logprobs(tokens: Sequence[SampledToken], tokenizer: Tokenizer) -> ChatLogprobs:
    """Return the entries of an answer's tokens."""
    return {"content": [_chat_token(token, tokenizer) for token in tokens], "refusal": None}


def completion_logprobs(
    entries: Sequence[tuple[int, SampledToken | None]], tokenizer: Tokenizer, offset: int
) -> CompletionLogprobs:
    """Return the entries of a completion's tokens.

    Args:
        entries: each token's id and what is known of it; nothing is known of a prompt's first.
        tokenizer: of the model.
        offset: characters of text before the first of them.
    """
    tokens = [tokenizer.token_text(token_id) for token_id, _ in entries]
    offsets = []
    for text in tokens:
        offsets.append(offset)
        offset += len(text)
    known = [token for _, token in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [None if token is None else _own(token) for token in known],
        "top_logprobs": [None if token is None else _top(token, tokenizer) for token in known],
        "text_offset": offsets,
    }


def _own(token: SampledToken) -> float:
    assert token.logprob is not None
    return max(token.logprob.logprob, _LEAST)


def _top(token: SampledToken, tokenizer: Tokenizer) -> dict[str, float]:
    """Return the likeliest tokens and the chosen one; of two with the same text the likelier counts."""
    assert token.logprob is not None
    best: dict[str, float] = {}
    for entry in (*token.top_logprobs, token.logprob):
        best.setdefault(tokenizer.token_text(entry.token_id), max(entry.logprob, _LEAST))
    return best


def _chat_token(token: SampledToken, tokenizer: Tokenizer) -> ChatToken:
    assert token.logprob is not None
    top = [_entry(one, tokenizer) for one in token.top_logprobs]
    return {**_entry(token.logprob, tokenizer), "top_logprobs": top}


def _entry(token: TokenLogprob, tokenizer: Tokenizer) -> TokenEntry:
    token_bytes = tokenizer.token_bytes(token.token_id)
    return {
        "token": token_bytes.decode("utf-8", errors="replace"),
        "logprob": max(token.logprob, _LEAST),
        "bytes": list(token_bytes),
    }
