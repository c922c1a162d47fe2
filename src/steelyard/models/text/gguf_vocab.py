"""The tokenizer's part of GGUF metadata, checked: :class:`GGUFVocab`.

A GGUF file is somebody else's: every key may be missing, of a wrong type, out of range or at odds with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite

from steelyard.core.errors import ModelError

PREFIX = "tokenizer.ggml."
MAX_TOKENS = 1 << 21
MAX_MERGES = 1 << 22
MAX_TOKEN_CHARS = 1024
MAX_VOCAB_CHARS = 1 << 24

DOWNLOAD_AGAIN = "Download the file again, or convert the model again with a recent converter"

# Ids that name control tokens; the first group also end a turn or a text.
_END_KEYS = ("eos", "eot", "eom")
_OTHER_KEYS = (
    "unknown",
    "padding",
    "seperator",
    "separator",
    "cls",
    "mask",
    "fim_pre",
    "fim_suf",
    "fim_mid",
    "fim_pad",
)


class TokenType(IntEnum):
    """What a GGUF file says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFVocab:
    """What a GGUF file tells of its tokenizer.

    Attributes:
        model: kind of tokenizer, ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece).
        pre: name of the rule that cuts text into words.
        tokens: id → piece; unique unless empty.
        types: id → type; as many as tokens.
        scores: id → score, as many as tokens, or empty.
        merges: pairs of pieces, the first to be merged first; both and their union are tokens.
        bos_token_id: begins a text.
        unknown_token_id: stands for what cannot be encoded.
        end_token_ids: end a text or a turn.
        special_token_ids: every id declared for a special purpose.
        add_bos: texts begin with the begin token; ``None`` if the file does not say.
        add_eos: likewise for the end.
        add_space_prefix: texts get a leading space; ``None`` if the file does not say.
    """

    model: str
    pre: str | None
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    bos_token_id: int | None
    eos_token_id: int | None
    unknown_token_id: int | None
    end_token_ids: frozenset[int]
    special_token_ids: frozenset[int]
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None


def read_vocab(metadata: Mapping[str, object]) -> GGUFVocab:
    """Return the checked tokenizer metadata.

    Raises:
        ModelError: naming the key that is missing, wrong, too large, or at odds with another.
    """
    tokens = _tokens(metadata)
    ends = {name: _token_id(metadata, name, len(tokens)) for name in _END_KEYS}
    others = {name: _token_id(metadata, name, len(tokens)) for name in ("bos", *_OTHER_KEYS)}
    return GGUFVocab(
        model=_text(metadata, "model") or "",
        pre=_text(metadata, "pre"),
        tokens=tokens,
        types=_types(metadata, len(tokens)),
        scores=_scores(metadata, len(tokens)),
        merges=_merges(metadata, frozenset(tokens)),
        bos_token_id=others["bos"],
        eos_token_id=ends["eos"],
        unknown_token_id=others["unknown"],
        end_token_ids=frozenset(i for i in ends.values() if i is not None),
        special_token_ids=frozenset(i for i in (*ends.values(), *others.values()) if i is not None),
        add_bos=_flag(metadata, "add_bos_token"),
        add_eos=_flag(metadata, "add_eos_token"),
        add_space_prefix=_flag(metadata, "add_space_prefix"),
    )


def wrong(name: str, problem: str, remedy: str = DOWNLOAD_AGAIN) -> ModelError:
    """Return the error for key ``tokenizer.ggml.<name>``."""
    return ModelError(problem, field=PREFIX + name, remedy=remedy)


def _array(metadata: Mapping[str, object], name: str, limit: int) -> tuple[object, ...]:
    """Return an array, empty if the key is missing."""
    found = metadata.get(PREFIX + name, ())
    if not isinstance(found, (list, tuple)):
        raise wrong(name, f"it is {type(found).__name__}, not an array")
    if len(found) > limit:
        raise wrong(name, f"its {len(found)} entries are over the limit of {limit}")
    return tuple(found)


def _text(metadata: Mapping[str, object], name: str) -> str | None:
    found = metadata.get(PREFIX + name)
    if found is not None and not isinstance(found, str):
        raise wrong(name, f"it is {type(found).__name__}, not a string")
    return found


def _flag(metadata: Mapping[str, object], name: str) -> bool | None:
    found = metadata.get(PREFIX + name)
    if found is not None and not isinstance(found, bool):
        raise wrong(name, f"it is {type(found).__name__}, not true or false")
    return found


def _token_id(metadata: Mapping[str, object], name: str, num_tokens: int) -> int | None:
    key = f"{name}_token_id"
    found = metadata.get(PREFIX + key)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < num_tokens:
        raise wrong(key, f"{found!r:.40} is not a token id from 0 to {num_tokens - 1}")
    return found


def _tokens(metadata: Mapping[str, object]) -> tuple[str, ...]:
    tokens: list[str] = []
    for i, token in enumerate(_array(metadata, "tokens", MAX_TOKENS)):
        if not isinstance(token, str):
            raise wrong("tokens", f"entry {i} is {type(token).__name__}, not a string")
        if len(token) > MAX_TOKEN_CHARS:
            raise wrong("tokens", f"entry {i} has {len(token)} characters, over the limit of {MAX_TOKEN_CHARS}")
        tokens.append(token)
    if not tokens:
        raise wrong("tokens", "the file holds no vocabulary")
    if sum(map(len, tokens)) > MAX_VOCAB_CHARS:
        raise wrong("tokens", f"together they are over the limit of {MAX_VOCAB_CHARS} characters")
    _check_unique(tokens)
    return tuple(tokens)


def _check_unique(tokens: list[str]) -> None:
    first: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token and first.setdefault(token, i) != i:
            raise wrong("tokens", f"entries {first[token]} and {i} are the same, {token!r:.40}")


def _types(metadata: Mapping[str, object], num_tokens: int) -> tuple[TokenType, ...]:
    found = _array(metadata, "token_type", MAX_TOKENS) or (TokenType.NORMAL,) * num_tokens
    _check_length("token_type", len(found), num_tokens)
    kinds = {int(kind): kind for kind in TokenType}
    types: list[TokenType] = []
    for i, number in enumerate(found):
        kind = kinds.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if kind is None:
            raise wrong("token_type", f"entry {i}, {number!r:.40}, is not a type from 1 to 6")
        types.append(kind)
    return tuple(types)


def _scores(metadata: Mapping[str, object], num_tokens: int) -> tuple[float, ...]:
    scores: list[float] = []
    for i, score in enumerate(_array(metadata, "scores", MAX_TOKENS)):
        if not isinstance(score, (int, float)) or isinstance(score, bool) or not isfinite(score):
            raise wrong("scores", f"entry {i}, {score!r:.40}, is not a finite number")
        scores.append(float(score))
    if scores:
        _check_length("scores", len(scores), num_tokens)
    return tuple(scores)


def _merges(metadata: Mapping[str, object], tokens: frozenset[str]) -> tuple[tuple[str, str], ...]:
    merges: list[tuple[str, str]] = []
    for i, merge in enumerate(_array(metadata, "merges", MAX_MERGES)):
        left, right = _pair(merge, i)
        if left not in tokens or right not in tokens or left + right not in tokens:
            raise wrong("merges", f"entry {i}, {merge!r:.40}, joins what are no tokens")
        merges.append((left, right))
    return tuple(merges)


def _pair(merge: object, index: int) -> tuple[str, str]:
    cut = merge.find(" ", 1) if isinstance(merge, str) else -1  # the space between is never the first character
    if not isinstance(merge, str) or cut < 0:
        raise wrong("merges", f"entry {index}, {merge!r:.40}, is not two pieces with a space between")
    return merge[:cut], merge[cut + 1 :]


def _check_length(name: str, length: int, num_tokens: int) -> None:
    if length != num_tokens:
        raise wrong(name, f"its {length} entries do not match the {num_tokens} tokens")
