"""Constraints compiled by ``llguidance``: the one module that imports it, and is itself imported on demand.

The library parses bytes, so it gets each token's bytes from the tokenizer and needs no idea of how text is cut into
tokens. Where only one text can follow, it would by default force that text's own tokens; here the model chooses among
all tokens that spell it (:mod:`.lark`), so the work of a step does not grow with the length of what is forced.

Its own limits bound the work of compiling and of each step; they are set in :func:`_limits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import cast

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark
from numpy.typing import NDArray

from steelyard.core.constraint import Constraint, ConstraintKind
from steelyard.core.errors import ParamsError
from steelyard.engine.constraints import Matcher
from steelyard.engine.lark import lark_of
from steelyard.models.text.tokenizer import Tokenizer

_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")
_EXCERPT = re.compile(r"\n +\d+ \| .*", re.DOTALL)
_NOTE = "<non-verbose/>"
_WORD_BITS = 32
_NO_TOKEN = "NoExtension"


class LlguidanceMatcher:
    """A :class:`~steelyard.engine.constraints.Matcher`."""

    __slots__ = ("inner",)

    def __init__(self, inner: llguidance.LLMatcher) -> None:
        self.inner = inner

    @property
    def is_complete(self) -> bool:
        """See the protocol."""
        return self.inner.is_stopped() and not self.inner.is_error()

    @property
    def problem(self) -> str | None:
        """See the protocol."""
        return _told(self.inner.get_error()) if self.inner.is_error() else None

    def consume(self, token_ids: Sequence[int]) -> None:
        """See the protocol."""
        self.inner.consume_tokens(list(token_ids))


class LlguidanceGrammar:
    """A :class:`~steelyard.engine.constraints.Grammar`: a matcher at the beginning, to be copied."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def start(self) -> LlguidanceMatcher:
        """See the protocol."""
        return LlguidanceMatcher(self._matcher.deep_copy())


class LlguidanceBackend:
    """A :class:`~steelyard.engine.constraints.GrammarBackend` for one tokenizer.

    Args:
        tokenizer: of the model.
        vocab_size: width of the model's logits; tokens that the tokenizer does not know are always forbidden.
        eos_token_ids: what may come where a text may end.

    Raises:
        ParamsError: if there is no end token: no text could end.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._vocab_size = vocab_size
        ends = sorted(token_id for token_id in set(eos_token_ids) if token_id < vocab_size)
        if not ends:
            problem = "it needs a model with an end-of-sequence token"
            raise ParamsError(problem, field="constraint", remedy="Leave it out")
        words = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, ends))
        self._tokenizer = llguidance.LLTokenizer(words, n_vocab=vocab_size, eos_token=ends)
        self._threads = llguidance.LLExecutor()

    def compile(self, constraint: Constraint) -> LlguidanceGrammar:
        """See the protocol."""
        lark = lark_of(_as_lark(constraint))
        matcher = llguidance.LLMatcher(self._tokenizer, lark, log_level=0, limits=_limits())
        if matcher.is_error():
            raise constraint.error(_told(matcher.get_error()))
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():
            raise constraint.error(f"no text fulfils it, or it is too complex ({first.stop_reason()})")
        return LlguidanceGrammar(matcher)

    def forbidden(self, matchers: Sequence[Matcher]) -> NDArray[np.bool_]:
        """See the protocol."""
        inner = [cast(LlguidanceMatcher, matcher).inner for matcher in matchers]
        words = np.zeros((len(inner), -(-self._vocab_size // _WORD_BITS)), dtype=np.uint32)
        if len(inner) == 1:
            inner[0].unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        else:
            places = [(matcher, row) for row, matcher in enumerate(inner)]
            self._threads.unsafe_compute_mask_ptr(places, words.ctypes.data, words.shape[1] * 4, len(inner))
        bits = np.unpackbits(~words.view(np.uint8), axis=1, bitorder="little")
        return bits[:, : self._vocab_size].view(np.bool_)


class _Vocabulary:
    """What the library wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        known = min(tokenizer.vocab_size, vocab_size)
        self.tokens = [tokenizer.token_bytes(i) for i in range(known)] + [b""] * (vocab_size - known)
        self.eos_token_id = eos_token_ids[0]
        self.bos_token_id = tokenizer.bos_token_id
        self.special_token_ids = sorted(i for i in tokenizer.control_token_ids | set(eos_token_ids) if i < vocab_size)

    def __call__(self, text: bytes) -> list[int]:
        """Cut text into tokens: asked for only to force tokens, which is switched off."""
        raise NotImplementedError


def _as_lark(constraint: Constraint) -> Constraint:
    """Return GBNF as a grammar in Lark, and anything else as it is."""
    if constraint.kind is not ConstraintKind.GBNF:
        return constraint
    try:
        return Constraint.grammar(gbnf_to_lark(constraint.texts[0]), constraint.asked_by)
    except ParamsError:
        raise
    except Exception as error:  # the converter checks little of what it reads
        raise constraint.error(f"it is not GBNF: {error}") from None


def _limits() -> llguidance.LLParserLimits:
    """Return what compiling and one step may cost: seconds and tens of milliseconds at the very worst."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=20_000,
        max_items_in_row=1_000,  # an ambiguous grammar's steps take time as the square of it
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,
    )


def _told(error: str) -> str:
    """Return the library's message without its excerpt of our grammar."""
    if _NO_TOKEN in error:
        return "the vocabulary has no token that could follow"
    message = " ".join(_EXCERPT.sub("", _PLACE.sub("", error)).replace(_NOTE, "").split())
    return f"{message:.300}".removesuffix(".")
