"""The text files of a model in Hugging Face's layout, read with bounds: tokenizer, its settings, chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from steelyard.core.errors import ModelError
from steelyard.core.units import MIB, format_bytes

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"

MAX_FILE_BYTES = 128 * MIB
MAX_SETTINGS_BYTES = 16 * MIB

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")

# A JSON object of somebody else's making; it stays inside this room.
Settings: TypeAlias = Mapping[str, Any]


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """Return a file's contents, or ``None`` if there is no such file.

    Raises:
        ModelError: if it cannot be read or is longer than ``max_bytes``.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise _unreadable(path, f"it cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise _unreadable(path, f"it is longer than {format_bytes(max_bytes)}")
    return content


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str | None:
    """Return a file's text, or ``None`` if there is no such file.

    Raises:
        ModelError: if it cannot be read, is longer than ``max_bytes``, or is no UTF-8.
    """
    content = read_bytes(path, max_bytes)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is no UTF-8 text at byte {error.start}") from error


def read_settings(path: Path) -> Settings:
    """Return a file's JSON object; empty if there is no such file.

    Raises:
        ModelError: if the file cannot be read or holds no JSON object.
    """
    text = read_text(path, MAX_SETTINGS_BYTES)
    try:
        found = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _unreadable(path, "it is no JSON object")
    return found


def read_special_texts(directory: Path) -> dict[str, str]:
    """Return the special tokens' texts by name, such as ``eos_token``.

    Raises:
        ModelError: if a file is corrupt or a token is no text.
    """
    merged = {**read_settings(directory / SPECIAL_FILE), **read_settings(directory / CONFIG_FILE)}
    texts = {name: token_text(merged.get(name), f"{CONFIG_FILE}[{name}]") for name in SPECIAL_NAMES}
    return {name: text for name, text in texts.items() if text is not None}


def token_text(token: object, field: str) -> str | None:
    """Return the text of a token that is written as a string or as an object with its ``content``.

    Raises:
        ModelError: naming ``field`` if it is neither.
    """
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise ModelError("it is neither a token's text nor an object with one", field=field, remedy=_REMEDY)
    return text


def read_chat_files(directory: Path) -> dict[str, str]:
    """Return the chat templates by name; a single one is called ``default``.

    Raises:
        ModelError: if a file is corrupt.
    """
    source = read_text(directory / TEMPLATE_FILE, MAX_SETTINGS_BYTES)
    named = _named_templates(read_settings(directory / CONFIG_FILE).get("chat_template"))
    return named if source is None else {**named, "default": source}


def _named_templates(found: object) -> dict[str, str]:
    if found is None:
        return {}
    entries = [{"name": "default", "template": found}] if isinstance(found, str) else found
    try:
        named = {entry["name"]: entry["template"] for entry in entries}  # type: ignore[attr-defined]
    except (TypeError, LookupError):
        named = {"default": None}
    if not all(isinstance(name, str) and isinstance(text, str) for name, text in named.items()):
        problem = "it is neither a template nor a list of named templates"
        raise ModelError(problem, field=f"{CONFIG_FILE}[chat_template]", remedy=_REMEDY)
    return named


def _unreadable(path: Path, problem: str) -> ModelError:
    return ModelError(problem, field=path.name, remedy=_REMEDY)


_REMEDY = "Download the model again"
