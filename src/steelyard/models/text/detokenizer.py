"""Tokens to text while they arrive: :class:`IncrementalDetokenizer`.

A token may hold half a character. Text goes out as soon as it is definite and not before, at a cost that depends on the
token alone, never on what came before it.
"""

from __future__ import annotations

import codecs
from typing import final

from steelyard.models.text.tokenizer import Tokenizer

_UTF8_DECODER = codecs.getincrementaldecoder("utf-8")


@final
class IncrementalDetokenizer:
    """Turns one sequence of tokens into text piece by piece.

    All pushes and the flush, one after another, are ``tokenizer.decode`` of all the ids. Ids from ``vocab_size`` on,
    which ``decode`` refuses, have no text here: models pad their output layer, and a sampled padding row must not end
    a generation with an error.

    Args:
        tokenizer: whose tokens they are.
        skip_special_tokens: leave control tokens out of the text.
        continues_text: text stands before the first token, so that a leading space is kept where the tokenizer would
            strip it from a text of its own.
    """

    __slots__ = ("_decoder", "_skipped", "_strip_next", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, continues_text: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._decoder = _UTF8_DECODER(errors="replace")
        self._strip_next = tokenizer.strips_leading_space and not continues_text

    def push(self, token_id: int) -> str:
        """Return the text that has become definite with this token; bytes of an unfinished character wait.

        Raises:
            PromptError: if the id is negative.
        """
        if token_id in self._skipped or token_id >= self._tokenizer.vocab_size:
            return ""
        return self._stripped(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """Return what is left at the end, U+FFFD for an unfinished character, and be ready for a new text.

        The new text continues the old one: no leading space is stripped.
        """
        text = self._stripped(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        self._strip_next = False
        return text

    def _stripped(self, text: str) -> str:
        if not text or not self._strip_next:
            return text
        self._strip_next = False
        return text[1:] if text.startswith(" ") else text
