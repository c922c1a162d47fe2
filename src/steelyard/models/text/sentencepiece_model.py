"""A SentencePiece ``tokenizer.model`` as GGUF-like metadata: :func:`metadata_from_sentencepiece`.

The file is a protocol buffer with few fields; its wire format is read here directly. Supported is what decoder-only
models use: BPE with byte fallback and no normalisation of text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from steelyard.core.errors import ModelError
from steelyard.models.text.gguf_vocab import MAX_TOKENS, PREFIX, TokenType

FIELD = "tokenizer.model"
USE_JSON = "Convert it to tokenizer.json, for instance by loading and saving the tokenizer with transformers"

# Field numbers of ModelProto and its parts.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _WHITESPACE_SUFFIX, _UNK_ID, _BOS_ID, _EOS_ID = 3, 24, 40, 41, 42
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5

_BPE = 2
_DEFAULT_IDS: Mapping[str, tuple[int, int]] = {"unknown": (_UNK_ID, 0), "bos": (_BOS_ID, 1), "eos": (_EOS_ID, 2)}
_NEGATIVE = 1 << 63

# A field's number and its value: an integer, or bytes (strings, messages and floats alike).
_Field = tuple[int, "int | bytes"]


def metadata_from_sentencepiece(content: bytes) -> dict[str, object]:
    """Return metadata for :func:`~.gguf_tokenizer.tokenizer_from_gguf` from a ``tokenizer.model``.

    Raises:
        ModelError: if the file is corrupt, or of a kind that is not supported.
    """
    try:
        return _metadata(content)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("it is no SentencePiece model", field=FIELD, remedy="Download the model again") from error


def _metadata(content: bytes) -> dict[str, object]:
    pieces: list[Mapping[int, int | bytes]] = []
    parts: dict[int, dict[int, int | bytes]] = {_TRAINER: {}, _NORMALIZER: {}}
    for number, value in _fields(content):
        if number == _PIECES:
            pieces.append(dict(_fields(_bytes(value))))
        elif number in parts:
            parts[number] = dict(_fields(_bytes(value)))
        if len(pieces) > MAX_TOKENS:
            raise _unsupported(f"it has more than {MAX_TOKENS} pieces")
    _check_kind(parts[_TRAINER], parts[_NORMALIZER])
    ids = {name: parts[_TRAINER].get(number, default) for name, (number, default) in _DEFAULT_IDS.items()}
    return {
        PREFIX + "model": "llama",
        PREFIX + "tokens": [_bytes(piece[_PIECE]).decode() for piece in pieces],
        PREFIX + "scores": [struct.unpack("<f", _bytes(piece.get(_SCORE, bytes(4))))[0] for piece in pieces],
        PREFIX + "token_type": [piece.get(_TYPE, int(TokenType.NORMAL)) for piece in pieces],
        PREFIX + "add_space_prefix": bool(parts[_NORMALIZER].get(_DUMMY_PREFIX, 1)),
        **{f"{PREFIX}{name}_token_id": i for name, i in ids.items() if isinstance(i, int) and i < _NEGATIVE},
    }


def _check_kind(trainer: Mapping[int, int | bytes], normalizer: Mapping[int, int | bytes]) -> None:
    if trainer.get(_MODEL_TYPE, 1) != _BPE:
        raise _unsupported("it is not a BPE model")
    if trainer.get(_WHITESPACE_SUFFIX, 0):
        raise _unsupported("it puts spaces at the end of words")
    if normalizer.get(_CHARSMAP) or normalizer.get(_REMOVE_SPACES, 1) or not normalizer.get(_ESCAPE_SPACES, 1):
        raise _unsupported("it changes text before cutting it")


def _fields(content: bytes) -> Iterator[_Field]:
    """Yield a message's fields in order."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        else:
            size = {1: 8, 5: 4}[kind] if kind in (1, 5) else len(content) + 1
        if size > len(content) - at:
            raise ValueError("a field goes past the end")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return the integer at ``at`` and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an integer is too long")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("an integer where bytes belong")
    return value


def _unsupported(problem: str) -> ModelError:
    return ModelError(f"{problem}, which is not supported", field=FIELD, remedy=USE_JSON)
