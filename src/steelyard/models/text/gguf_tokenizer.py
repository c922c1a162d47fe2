"""A :class:`~steelyard.models.text.tokenizer.Tokenizer` from GGUF metadata: :func:`tokenizer_from_gguf`.

Two kinds exist in decoder-only models. Byte-level BPE (``gpt2``) brings its merges; how it cuts words is a name, looked
up in :mod:`.pre_tokenizers`. SentencePiece BPE (``llama``) brings scores instead of merges: of two neighbours the union
with the highest score is merged first, so every way to cut a token in two is a merge, ranked by the token's score.

Where one token can be merged from two overlapping pairs, SentencePiece takes the leftmost, and this list the pair with
the longer first part. In vocabularies that grew by merging, the tests find no text that tells the two apart.

Left out: ``t5``, ``bert``, ``rwkv`` and other kinds that no supported model uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.models.text.gguf_vocab import GGUFVocab, TokenType, read_vocab, wrong
from steelyard.models.text.pre_tokenizers import DEFAULT_PRE, PRE_TOKENIZERS, PreTokenizer
from steelyard.models.text.tokenizer import Tokenizer, looks_like_control
from steelyard.models.text.tokenizer_json import SPACE_MARK, TokenizerJson, template_processor

_SPECIAL_TYPES = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})


def tokenizer_from_gguf(metadata: Mapping[str, object]) -> Tokenizer:
    """Return the tokenizer that GGUF metadata describe.

    Args:
        metadata: key → value, with the keys ``tokenizer.ggml.…``; arrays are lists or tuples.

    Raises:
        ModelError: naming the key that is missing, wrong or not supported.
    """
    vocab = read_vocab(metadata)
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if vocab.model not in builders:
        remedy = f"Use a model with one of the tokenizers {', '.join(builders)}, or pass token ids instead of text"
        raise wrong("model", f"{vocab.model!r:.40} is not a known kind of tokenizer", remedy)
    special = _special_ids(vocab)
    spec = builders[vocab.model](vocab)
    spec["added_tokens"] = _added_tokens(vocab, special)
    return Tokenizer(
        spec,
        bos_token_id=vocab.bos_token_id,
        eos_token_ids=vocab.end_token_ids,
        special_token_ids=special,
        text_prefix=" " if _adds_space(vocab) else "",
    )


def merges_from_scores(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return BPE merges that join as scores do: every cut of every piece into two pieces, best score first.

    Of equal scores the earlier piece comes first, and of one piece the longer first part. Time grows with the sum of
    the pieces' lengths.
    """
    merges: list[tuple[str, str]] = []
    for piece in sorted(pieces, key=lambda piece: -pieces[piece]):
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                merges.append((left, right))
    return merges


def _special_ids(vocab: GGUFVocab) -> frozenset[int]:
    """Return the control tokens: those the file marks, declares, or forgot although their text says it."""
    marked = {i for i, kind in enumerate(vocab.types) if kind in _SPECIAL_TYPES}
    forgotten = {i for i, token in enumerate(vocab.tokens) if token[:1] == "<" and looks_like_control(token)}
    return vocab.special_token_ids | marked | forgotten


def _byte_level(vocab: GGUFVocab) -> TokenizerJson:
    rule = _rule(vocab.pre or DEFAULT_PRE)
    if not vocab.merges and len(vocab.tokens) > 256 + len(_special_ids(vocab)):
        raise wrong("merges", "a byte-level vocabulary without merges cannot encode text")
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in rule.patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": {"type": "NFC"} if rule.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": _post_processor(vocab, adds_bos=rule.adds_bos),
        "decoder": byte_level,
        "model": _bpe(vocab, list(vocab.merges), ignore_merges=rule.ignore_merges, byte_fallback=False),
    }


def _rule(pre: str) -> PreTokenizer:
    rule = PRE_TOKENIZERS.get(pre)
    if rule is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise wrong("pre", f"{pre!r:.40} is not a known way to cut words", f"Use a model with one of {known}")
    return rule


def _sentencepiece(vocab: GGUFVocab) -> TokenizerJson:
    if not vocab.scores:
        raise wrong("scores", "a SentencePiece vocabulary without scores cannot encode text")
    normal = {
        token: vocab.scores[i] for i, token in enumerate(vocab.tokens) if vocab.types[i] is TokenType.NORMAL and token
    }
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    to_space = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if _adds_space(vocab) else []
    return {
        "normalizer": to_mark,
        "pre_tokenizer": None,
        "post_processor": _post_processor(vocab, adds_bos=True),
        "decoder": {
            "type": "Sequence",
            "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": _bpe(vocab, merges_from_scores(normal), ignore_merges=False, byte_fallback=True),
    }


def _adds_space(vocab: GGUFVocab) -> bool:
    """Whether texts get a leading space: SentencePiece's do unless the file says otherwise, byte-level ones never."""
    return vocab.model == "llama" and vocab.add_space_prefix is not False


def _bpe(
    vocab: GGUFVocab, merges: list[tuple[str, str]], *, ignore_merges: bool, byte_fallback: bool
) -> dict[str, Any]:
    unknown = _unknown(vocab) if byte_fallback else None
    return {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: i for i, token in enumerate(vocab.tokens) if token},
        "merges": merges,
    }


def _unknown(vocab: GGUFVocab) -> str | None:
    """Return the token for what cannot be encoded, declared or marked by its type."""
    marked = (i for i, kind in enumerate(vocab.types) if kind is TokenType.UNKNOWN)
    found = vocab.unknown_token_id if vocab.unknown_token_id is not None else next(marked, None)
    return None if found is None else vocab.tokens[found] or None


def _added_tokens(vocab: GGUFVocab, special: frozenset[int]) -> list[dict[str, Any]]:
    """Return the tokens that are found in text as wholes: control tokens, and those the model's makers defined."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, "special": i in special, **flags}
        for i, token in enumerate(vocab.tokens)
        if token and (i in special or vocab.types[i] is TokenType.USER_DEFINED)
    ]


def _post_processor(vocab: GGUFVocab, *, adds_bos: bool) -> dict[str, Any] | None:
    """Return what puts the begin and end tokens around a text; ``adds_bos`` if the file does not say."""
    bos = vocab.bos_token_id if (adds_bos if vocab.add_bos is None else vocab.add_bos) else None
    eos = vocab.eos_token_id if vocab.add_eos else None
    if vocab.add_bos and bos is None:
        raise wrong("bos_token_id", "texts shall begin with a token that the file does not name")
    if vocab.add_eos and eos is None:
        raise wrong("eos_token_id", "texts shall end with a token that the file does not name")
    return template_processor(bos, eos)
