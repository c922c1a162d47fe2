"""A model's text side: its tokenizer and chat template, from wherever its files keep them."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.models.resolve import ModelKind, ResolvedModel
from steelyard.models.text.chat import ChatTemplate, chat_template_from_gguf, chat_template_from_hf
from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.text.hf_tokenizer import tokenizer_from_hf
from steelyard.models.text.tokenizer import Tokenizer
from steelyard.models.weights.gguf import GGUFFile
from steelyard.models.weights.source import WeightSource


@dataclass(frozen=True, slots=True)
class TextParts:
    """What turns text into tokens and conversations into text; each ``None`` where the model came without."""

    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None


def load_text(resolved: ResolvedModel, source: WeightSource | None = None) -> TextParts:
    """Return the text side of a model.

    Args:
        resolved: where it is.
        source: its open weights, if they are open: a GGUF file's header is long, and holds the vocabulary.

    Raises:
        ModelError: if a tokenizer or template file is there but broken.
    """
    if resolved.kind is ModelKind.GGUF:
        metadata = (source if isinstance(source, GGUFFile) else GGUFFile(resolved.path)).metadata
        return TextParts(tokenizer_from_gguf(metadata), chat_template_from_gguf(metadata))
    return TextParts(tokenizer_from_hf(resolved.path), chat_template_from_hf(resolved.path))
