"""A model's text side at the front door: :class:`Prompter` turns texts and conversations into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steelyard.core.clock import local_datetime
from steelyard.core.errors import ModelError, PromptError
from steelyard.models.text.chat import ChatTemplate, encode_chat
from steelyard.models.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]
Message = dict[str, Any]


class Prompter:
    """Encodes for one model.

    Args:
        name: of the model, for errors.
        tokenizer: ``None`` if the model came without.
        chat_template: likewise.
    """

    def __init__(self, name: str, tokenizer: Tokenizer | None, chat_template: ChatTemplate | None) -> None:
        self._name, self._tokenizer, self._chat_template = name, tokenizer, chat_template

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ModelError: if the model came without one.
        """
        if self._tokenizer is None:
            problem = f"{self._name} has no tokenizer"
            raise ModelError(problem, field="model", remedy="Give token ids instead of text")
        return self._tokenizer

    def encode(self, prompt: Prompt, *, parse_special: bool = False) -> tuple[int, ...]:
        """Return the prompt's token ids; control tokens in text stay text unless ``parse_special``."""
        if not isinstance(prompt, str):
            return tuple(int(token) for token in prompt)
        if not prompt:
            raise PromptError("it is empty", field="prompt", remedy="Give at least one character")
        return tuple(self.tokenizer.encode(prompt, parse_special=parse_special))

    def encode_chat(self, messages: Sequence[Message], **template_arguments: Any) -> tuple[int, ...]:
        """Return the token ids of a conversation in the model's chat template, ready for the assistant's turn.

        Raises:
            PromptError: if a message is malformed, or the model has no chat template.
            ModelError: if the model has no tokenizer.
        """
        arguments = {"now": local_datetime()} | template_arguments
        return tuple(encode_chat(self.tokenizer, self._chat_template, messages, **arguments))
