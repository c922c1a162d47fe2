"""Reading and rewriting the ``tokenizer.json`` format of the ``tokenizers`` library.

The one rewrite that matters: :func:`hide_control_tokens` gives every control token a name that no text spells, so that
text can never be encoded to one, whatever merges, scores or added tokens the file brings. Whoever really means a
control token writes its hidden name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from steelyard.core.errors import ModelError

# The format of an outside library, nested as that library wants it; it stays inside this room.
TokenizerJson: TypeAlias = dict[str, Any]

FIELD = "tokenizer.json"
CONVERT_AGAIN = "Download the model again, or use a tokenizer.json written by a recent version of its library"

# Noncharacters: Unicode keeps them for internal use, so that text in interchange has no reason to hold them.
NAME_OPEN, NAME_CLOSE = "\ufdd0", "\ufdd1"

SPACE_MARK = "▁"

_SPACE_DECODERS = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
_ADDED_DEFAULTS: Mapping[str, bool] = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderKind:
    """How pieces become bytes.

    Attributes:
        byte_level: pieces are written in the byte-level alphabet; otherwise ``▁`` means a space, and ``<0x41>`` a byte.
        strips_leading_space: the text loses one leading space, which encoding had put there.
    """

    byte_level: bool
    strips_leading_space: bool = False


def hidden_name(token_id: int) -> str:
    """Return the name under which a control token is known after :func:`hide_control_tokens`."""
    return f"{NAME_OPEN}{token_id}{NAME_CLOSE}"


def parse_tokenizer_json(content: str | TokenizerJson) -> TokenizerJson:
    """Return the file's contents, parsed if they are not yet, with its outline checked.

    Raises:
        ModelError: if it is no JSON object, or has no model with a vocabulary.
    """
    try:
        spec: TokenizerJson = json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError) as error:
        raise broken(f"it is not valid JSON: {error}") from error
    model = spec.get("model") if isinstance(spec, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise broken("it holds no model with a vocabulary")
    added = spec.setdefault("added_tokens", [])
    if not isinstance(added, list) or not all(_is_added_token(token) for token in added):
        raise broken("added_tokens is no list of objects with an id and a content")
    return spec


def broken(problem: str) -> ModelError:
    """Return the error for a file that cannot be used."""
    return ModelError(problem, field=FIELD, remedy=CONVERT_AGAIN)


def vocabulary(spec: TokenizerJson) -> dict[int, str]:
    """Return id → piece, added tokens included; ids may have holes.

    Raises:
        ModelError: if an id or a piece has the wrong type.
    """
    vocab = spec["model"]["vocab"]
    try:
        pieces = {i: row[0] for i, row in enumerate(vocab)} if isinstance(vocab, list) else _inverse(vocab)
    except (TypeError, LookupError) as error:
        raise broken("the vocabulary is neither piece → id nor a list of pieces with scores") from error
    if not all(type(i) is int and i >= 0 and isinstance(piece, str) for i, piece in pieces.items()):
        raise broken("the vocabulary has an entry that is not a piece with an id")
    pieces.update((token["id"], token["content"]) for token in spec["added_tokens"])
    return pieces


def decoder_kind(spec: TokenizerJson) -> DecoderKind:
    """Return how the file's decoder turns pieces into text.

    Raises:
        ModelError: if it is neither byte-level nor SentencePiece-like.
    """
    steps = _steps(spec.get("decoder"), "decoders")
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return DecoderKind(byte_level=True)
    if steps and kinds <= _SPACE_DECODERS and all(map(_reads_space_mark, steps)):
        return DecoderKind(byte_level=False, strips_leading_space=any(map(_strips, steps)))
    found = ", ".join(sorted(map(str, kinds))) or "none"
    raise ModelError(
        f"its decoder ({found}) is neither byte-level nor SentencePiece-like",
        field=FIELD,
        remedy="Use a model with such a tokenizer, or pass token ids instead of text",
    )


def hide_control_tokens(spec: TokenizerJson, control: Mapping[int, str]) -> None:
    """Rename control tokens (id → text) in place, drop the merges that spell them, and mark them special.

    They match wherever their hidden name stands, whole words and normalised text aside.
    """
    names = {text: hidden_name(token_id) for token_id, text in control.items()}
    model = spec["model"]
    model["vocab"] = _renamed_vocab(model["vocab"], control, names)
    if isinstance(model.get("merges"), list):
        model["merges"] = _merges_without(model["merges"], names)
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    _rename_added(spec["added_tokens"], control)


def template_processor(bos: int | None, eos: int | None) -> dict[str, Any] | None:
    """Return the post-processor that puts these tokens around a text; ``None`` if there are none."""
    ids = [i for i in (bos, eos) if i is not None]
    if not ids:
        return None
    tokens = {i: {"SpecialToken": {"id": str(i), "type_id": 0}} for i in ids}
    before = [] if bos is None else [tokens[bos]]
    after = [] if eos is None else [tokens[eos]]
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {str(i): {"id": str(i), "ids": [i], "tokens": [str(i)]} for i in ids},
    }


def _is_added_token(token: object) -> bool:
    return (
        isinstance(token, dict)
        and type(token.get("id")) is int
        and token["id"] >= 0
        and isinstance(token.get("content"), str)
    )


def _inverse(vocab: Mapping[str, int]) -> dict[int, str]:
    return {token_id: piece for piece, token_id in vocab.items()}


def _steps(decoder: object, key: str) -> list[dict[str, Any]]:
    """Return a decoder's steps in order, sequences opened."""
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    inner = decoder.get(key)
    return [step for step in inner if isinstance(step, dict)] if isinstance(inner, list) else []


def _reads_space_mark(step: Mapping[str, Any]) -> bool:
    """Whether a step that replaces anything replaces ``▁`` by a space."""
    if step.get("type") == "Replace":
        return step.get("pattern") == {"String": SPACE_MARK} and step.get("content") == " "
    return step.get("type") != "Metaspace" or step.get("replacement", SPACE_MARK) == SPACE_MARK


def _strips(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "Strip":
        return step.get("content") == " " and bool(step.get("start"))
    return step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never"


def _renamed_vocab(vocab: Any, control: Mapping[int, str], names: Mapping[str, str]) -> Any:
    if isinstance(vocab, list):
        return [[hidden_name(i), *row[1:]] if i in control else row for i, row in enumerate(vocab)]
    return {names.get(piece, piece): token_id for piece, token_id in vocab.items()}


def _merges_without(merges: list[Any], names: Mapping[str, str]) -> list[Any]:
    """Return the merges in which no control text is a part or the result; both forms, ``"a b"`` and ``["a", "b"]``."""

    def keeps(merge: Any) -> bool:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        return pair[0] not in names and pair[-1] not in names and "".join(pair) not in names

    try:
        return [merge for merge in merges if keeps(merge)]
    except (TypeError, AttributeError, LookupError) as error:
        raise broken("its merges are not pairs of pieces") from error


def _rename_added(added: list[dict[str, Any]], control: Mapping[int, str]) -> None:
    """Rename added control tokens; those that only the vocabulary knew become added tokens too."""
    known = set()
    for token in added:
        if token["id"] in control:
            known.add(token["id"])
            token.update(content=hidden_name(token["id"]), special=True, single_word=False, normalized=False)
    added += [
        {"id": token_id, "content": hidden_name(token_id), "special": True, **_ADDED_DEFAULTS}
        for token_id in sorted(control.keys() - known)
    ]
