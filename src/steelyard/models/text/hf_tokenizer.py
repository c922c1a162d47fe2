"""A :class:`~steelyard.models.text.tokenizer.Tokenizer` from a directory in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steelyard.core.errors import ModelError
from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.text.gguf_vocab import PREFIX
from steelyard.models.text.hf_files import (
    CONFIG_FILE,
    GENERATION_FILE,
    SPECIAL_FILE,
    TOKENIZER_FILE,
    Settings,
    read_bytes,
    read_settings,
    read_special_texts,
    read_text,
    token_text,
)
from steelyard.models.text.sentencepiece_model import FIELD as SENTENCEPIECE_FILE
from steelyard.models.text.sentencepiece_model import metadata_from_sentencepiece
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.models.text.tokenizer_json import TokenizerJson, parse_tokenizer_json, template_processor, vocabulary

MODEL_CONFIG_FILE = "config.json"

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_from_hf(directory: str | Path) -> Tokenizer | None:
    """Return a model's tokenizer, or ``None`` if the directory has none (token ids can still be used).

    ``tokenizer.json`` is read together with what ``tokenizer_config.json``, ``special_tokens_map.json`` and
    ``generation_config.json`` say of special and end tokens. Without it, a ``tokenizer.model`` of SentencePiece's BPE
    kind serves. End tokens that the vocabulary lacks are passed over.

    Raises:
        ModelError: naming the file that is corrupt, too long or not supported.
    """
    folder = Path(directory)
    text = read_text(folder / TOKENIZER_FILE)
    return _from_sentencepiece(folder) if text is None else _from_json(folder, parse_tokenizer_json(text))


def _from_json(folder: Path, spec: TokenizerJson) -> Tokenizer:
    settings = read_settings(folder / CONFIG_FILE)
    _add_declared(spec, settings)
    ids = {text: token_id for token_id, text in vocabulary(spec).items()}
    named = read_special_texts(folder)
    special = {ids[text] for text in (*named.values(), *_extra_special(folder, settings)) if text in ids}
    bos, eos = ids.get(named.get("bos_token", "")), ids.get(named.get("eos_token", ""))
    if "add_bos_token" in settings or "add_eos_token" in settings or spec.get("post_processor") is None:
        around = (bos if settings.get("add_bos_token") else None, eos if settings.get("add_eos_token") else None)
        spec["post_processor"] = template_processor(*around)
    ends = _end_ids(folder) if eos is None else {eos, *_end_ids(folder)}
    return Tokenizer(
        spec,
        bos_token_id=bos,
        eos_token_ids=ends & set(ids.values()),
        special_token_ids=special,
    )


def _from_sentencepiece(folder: Path) -> Tokenizer | None:
    content = read_bytes(folder / SENTENCEPIECE_FILE)
    if content is None:
        return None
    metadata = metadata_from_sentencepiece(content)
    settings = read_settings(folder / CONFIG_FILE)
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            metadata[PREFIX + name] = settings[name]
    return tokenizer_from_gguf(metadata)


def _add_declared(spec: TokenizerJson, settings: Settings) -> None:
    """Add tokens that only ``tokenizer_config.json`` lists, in the order of their ids, and note what is special."""
    declared = _declared(settings)
    known = {token["id"]: token for token in spec["added_tokens"]}
    for token_id, entry in sorted(declared.items()):
        if token_id not in known:
            flags = {name: bool(entry.get(name, False)) for name in _FLAGS}
            spec["added_tokens"].append({"id": token_id, "content": entry["content"], **flags})
        elif entry.get("special"):
            known[token_id]["special"] = True


def _declared(settings: Settings) -> dict[int, Mapping[str, Any]]:
    field = f"{CONFIG_FILE}[added_tokens_decoder]"
    found = settings.get("added_tokens_decoder", {})
    if not isinstance(found, dict):
        raise _corrupt(field, "it is no object")
    declared: dict[int, Mapping[str, Any]] = {}
    for key, entry in found.items():
        if not (
            key.isascii() and key.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str)
        ):
            raise _corrupt(field, f"{key!r:.40} is no token id with an object that has a content")
        declared[int(key)] = entry
    return declared


def _extra_special(folder: Path, settings: Settings) -> Iterable[str]:
    """Return the texts of further special tokens."""
    names = ("additional_special_tokens", "extra_special_tokens")
    for name in names:
        found = settings.get(name) or read_settings(folder / SPECIAL_FILE).get(name) or []
        entries = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(entries, list):
            raise _corrupt(f"{CONFIG_FILE}[{name}]", "it is no list of tokens")
        texts = (token_text(entry, f"{CONFIG_FILE}[{name}]") for entry in entries)
        yield from (text for text in texts if text is not None)


def _end_ids(folder: Path) -> set[int]:
    """Return the end tokens for generation; those of the model's own settings if there are no special ones."""
    for file in (GENERATION_FILE, MODEL_CONFIG_FILE):
        found = read_settings(folder / file).get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(i) is int for i in ids):
            raise _corrupt(f"{file}[eos_token_id]", "it is neither a token id nor a list of them")
        if ids:
            return set(ids)
    return set()


def _corrupt(field: str, problem: str) -> ModelError:
    return ModelError(problem, field=field, remedy="Download the model again")
