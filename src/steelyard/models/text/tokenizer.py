"""Text to token ids and back: :class:`Tokenizer`, around the ``tokenizers`` library.

Two promises go beyond that library. Text is never encoded to a control token unless the caller says so, token by token
or by ``parse_special``: control tokens carry hidden names inside (see :mod:`.tokenizer_json`). And decoding is defined
by bytes: the bytes of all tokens, one after another, read as UTF-8; a byte that is no part of a character becomes
U+FFFD, and characters around it survive. (The library replaces a whole run of SentencePiece bytes if one is wrong.)

Left out: tokenizers that are neither byte-level nor SentencePiece-like, truncation, padding, pairs of texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import final

import tokenizers

from steelyard.core.errors import ModelError, PromptError
from steelyard.core.units import MIB
from steelyard.models.text.control_text import ControlScanner
from steelyard.models.text.tokenizer_json import (
    CONVERT_AGAIN,
    FIELD,
    NAME_CLOSE,
    NAME_OPEN,
    SPACE_MARK,
    TokenizerJson,
    broken,
    decoder_kind,
    hidden_name,
    hide_control_tokens,
    parse_tokenizer_json,
    vocabulary,
)

MAX_TEXT_CHARS = 4 * MIB

# Tokens that end a turn or a text; a model that knows one as a control token stops there. In the order of their fame.
END_TEXTS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<|return|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|endofturn|>", "[|endofturn|]",
)  # fmt: skip

# Some files forget to mark these as control tokens; nobody writes them and means an ordinary word.
_TURN_TEXTS = frozenset({*END_TEXTS, "<start_of_turn>", "<|turn>"})
_CONTROL_SHAPE = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HIDDEN_NAME = re.compile(f"{NAME_OPEN}[0-9]+{NAME_CLOSE}")


def byte_alphabet() -> dict[str, int]:
    """Return the 256 characters in which byte-level tokenizers write bytes, and the byte that each means.

    Printable Latin-1 characters mean themselves; the other bytes, in order, are U+0100 onwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


@final
class Tokenizer:
    """A model's tokenizer; immutable, and safe to share between threads.

    Attributes:
        vocab_size: one more than the highest token id. Ids below it may be unused.
        bos_token_id: begins a text, if the model knows such a token.
        eos_token_ids: end a text or a turn.
        special_token_ids: left out of decoded text unless asked for.
        control_token_ids: never result from text unless ``parse_special`` is set: the special ones, and unmarked ones
            of the shape ``<|…|>``.
        control_texts: the texts of ``control_token_ids``.
        strips_leading_space: decoding drops one space at the start, which encoding had put there.

    Args:
        tokenizer_json: the contents of a ``tokenizer.json`` (what ``tokenizers.Tokenizer.to_str`` gives), or the same
            parsed, which is used up.
        bos_token_id: as above; special.
        eos_token_ids: as above; special. Known end-of-turn tokens (:data:`END_TEXTS`) are added where the model has
            them as control tokens.
        special_token_ids: special tokens beyond those that the file marks.
        text_prefix: put before every text and before what follows a control token, unless that is empty.
        max_text_chars: longest text that is encoded.

    Raises:
        ModelError: if the file is broken, its decoder unsupported, or one of the ids is not in its vocabulary.
    """

    def __init__(
        self,
        tokenizer_json: str | TokenizerJson,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Iterable[int] = (),
        special_token_ids: Iterable[int] = (),
        text_prefix: str = "",
        max_text_chars: int = MAX_TEXT_CHARS,
    ) -> None:
        spec = parse_tokenizer_json(tokenizer_json)
        pieces = vocabulary(spec)
        self._kind = decoder_kind(spec)
        self._max_text_chars = max_text_chars
        self._text_prefix = text_prefix
        self._added = {token["id"]: token["content"] for token in spec["added_tokens"]}
        declared = frozenset(eos_token_ids)
        given = declared | frozenset(special_token_ids) | (frozenset() if bos_token_id is None else {bos_token_id})
        _check_known(given, pieces)
        self.bos_token_id = bos_token_id
        self.special_token_ids = given | {token["id"] for token in spec["added_tokens"] if token.get("special")}
        self.control_token_ids = self.special_token_ids | {
            i for i, text in self._added.items() if looks_like_control(text)
        }
        self._control = {token_id: pieces[token_id] for token_id in self.control_token_ids}
        self._control_ids = {text: token_id for token_id, text in self._control.items()}
        self._scanner = ControlScanner(self._control_ids)
        self.control_texts = frozenset(self._control_ids)
        self.eos_token_ids = declared | {i for i, text in self._control.items() if text in END_TEXTS}
        self.vocab_size = 1 + max(pieces, default=-1)
        self._backend = _build(spec, self._control)
        self._alphabet = byte_alphabet()
        self._bytes: dict[int, bytes] = {}  # filled on demand; the same value whoever comes first

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding drops one leading space."""
        return self._kind.strips_leading_space

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of ``text``; bytes for which the model has no token at all are lost.

        Args:
            text: any Unicode text.
            add_special_tokens: put the model's begin and end tokens around it, as its tokenizer is set up to.
            parse_special: read control tokens' texts as those tokens. Only for text that the user may not choose.

        Raises:
            PromptError: if the text is too long or no valid Unicode.
        """
        self._check_length(len(text))
        parts = self._scanner.split(text) if parse_special else [text]
        return self.encode_parts(parts, add_special_tokens=add_special_tokens)

    def encode_parts(self, parts: Sequence[str | int], *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text given in parts: strings of ordinary text, and ids of control tokens.

        Neighbouring strings are one text; a control token separates what stands before from what stands after it,
        and its flags (such as to swallow spaces after it) hold.

        Raises:
            PromptError: if the text is too long, no valid Unicode, or an id is no control token's.
        """
        self._check_length(sum(len(part) for part in parts if isinstance(part, str)))
        text = "".join(self._written(parts))
        _check_names(text, sum(not isinstance(part, str) for part in parts))
        _check_unicode(text)
        # Unlike the call for one text, this lets other threads run: a long text takes seconds.
        (encoded,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        return ids

    def control_id(self, text: str) -> int:
        """Return the id of the control token with this text, one of ``control_texts``."""
        return self._control_ids[text]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Raises:
            PromptError: if an id is not below ``vocab_size``.
        """
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        kept = b"".join(self.token_bytes(token_id) for token_id in ids if token_id not in skipped)
        text = kept.decode("utf-8", errors="replace")
        return text[1:] if self.strips_leading_space and text.startswith(" ") else text

    def token_text(self, token_id: int) -> str:
        """Return the token's own text; U+FFFD where its bytes are no whole characters.

        Raises:
            PromptError: if the id is not below ``vocab_size``.
        """
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return exactly the bytes that the token stands for in a text; none for an unused id.

        Raises:
            PromptError: if the id is not below ``vocab_size``.
        """
        found = self._bytes.get(token_id)
        if found is None:
            self._check_id(token_id)
            found = self._bytes[token_id] = self._compute_bytes(token_id)
        return found

    def _compute_bytes(self, token_id: int) -> bytes:
        literal = self._control.get(token_id) or self._added.get(token_id)
        if self._kind.byte_level:
            if literal is not None:
                return literal.encode()
            piece = self._backend.id_to_token(token_id) or ""
            known = all(char in self._alphabet for char in piece)
            return bytes(self._alphabet[char] for char in piece) if known else piece.encode()
        piece = literal or self._backend.id_to_token(token_id) or ""
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE_MARK, " ").encode()

    def _written(self, parts: Sequence[str | int]) -> Iterator[str]:
        """Yield what the library is given: text with its prefix, and control tokens' names."""
        begins = True
        for part in parts:
            if not isinstance(part, str):
                yield self._name(part)
                begins = True
            elif part:
                yield self._text_prefix + part if begins else part
                begins = False

    def _name(self, token_id: int) -> str:
        if token_id not in self._control:
            raise PromptError(f"{token_id} is no control token", field="prompt", remedy="Give its text instead")
        return hidden_name(token_id)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            problem = f"{token_id} is not a token id from 0 to {self.vocab_size - 1}"
            raise PromptError(problem, field="token_ids", remedy="Give ids of this model's own tokenizer")

    def _check_length(self, num_chars: int) -> None:
        if num_chars > self._max_text_chars:
            problem = f"{num_chars} characters are over the limit of {self._max_text_chars}"
            raise PromptError(problem, field="prompt", remedy="Send a shorter text")


def _check_known(ids: frozenset[int], pieces: Mapping[int, str]) -> None:
    for token_id in sorted(ids):
        if token_id not in pieces:
            raise broken(f"token {token_id} is declared but not in the vocabulary")


def looks_like_control(text: str) -> bool:
    """Whether a token of this text is a control token even where its file does not say so: ``<|…|>`` and its like."""
    return text in _TURN_TEXTS or (text[:1] == "<" and _CONTROL_SHAPE.fullmatch(text) is not None)


def _check_names(text: str, expected: int) -> None:
    """Refuse text that spells a hidden name itself."""
    if NAME_OPEN in text and sum(1 for _ in _HIDDEN_NAME.finditer(text)) != expected:
        problem = "it holds a number between U+FDD0 and U+FDD1, which Unicode keeps for internal use"
        raise PromptError(problem, field="prompt", remedy="Remove these characters")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"it holds half of a surrogate pair at character {error.start}"
        raise PromptError(problem, field="prompt", remedy="Send valid Unicode text") from error


def _build(spec: TokenizerJson, control: Mapping[int, str]) -> tokenizers.Tokenizer:
    """Return the library's tokenizer with control tokens hidden; ``spec`` is used up.

    Raises:
        ModelError: if the library refuses it, or its ids come out otherwise than declared.
    """
    hide_control_tokens(spec, control)
    spec["truncation"] = spec["padding"] = None
    declared = [(token["id"], token["content"]) for token in spec["added_tokens"]]
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception, for any fault of the file
        raise ModelError(f"the file is refused: {error}", field=FIELD, remedy=CONVERT_AGAIN) from error
    for token_id, content in declared:
        if backend.token_to_id(content) != token_id:
            raise broken(f"added token {token_id} is not where its id says")
    return backend
