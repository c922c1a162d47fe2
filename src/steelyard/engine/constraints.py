"""Constrained output: which tokens each sequence may take next, so that its text becomes what was asked for.

A :class:`~steelyard.core.constraint.Constraint` is compiled once per model (:class:`GrammarStore`), off the event loop
and within limits of size and time. While a sequence grows, a matcher follows its output through the grammar
(:class:`ConstraintFollower`) and says what is forbidden next. Like all state of sampling it can be lost and made again
from the sequence's tokens: preemption, recomputation and prefix caching do not touch it.

How grammars are compiled is a backend's business (:mod:`steelyard.engine.llguidance_backend`). Left out: taking several
tokens at once where the grammar leaves no choice.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard.core.constraint import Constraint
from steelyard.core.errors import ParamsError, SteelyardError
from steelyard.core.params import SamplingParams
from steelyard.core.request import SampledToken
from steelyard.core.sequence import Sequence as TokenSequence

MAX_GRAMMARS = 128
COMPILE_LIMIT_S = 5.0
_NUM_THREADS = 2


class Matcher(Protocol):
    """Follows one text, token by token, through a grammar."""

    @property
    def is_complete(self) -> bool:
        """Whether the text is in the language and nothing may follow it."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the text cannot be followed any further, if so; it stays."""
        ...

    def consume(self, token_ids: Sequence[int]) -> None:
        """Take the next tokens; those that the grammar forbids, or cannot take, are a :attr:`problem`."""
        ...


class Grammar(Protocol):
    """A constraint compiled for a vocabulary."""

    def start(self) -> Matcher:
        """Return a matcher at the beginning of a text."""
        ...


class GrammarBackend(Protocol):
    """Compiles constraints for one model's vocabulary; safe to use from several threads."""

    def compile(self, constraint: Constraint) -> Grammar:
        """Return the grammar.

        Raises:
            ParamsError: as :meth:`Constraint.error`, if it is wrong, too complex, or no text fulfils it.
        """
        ...

    def forbidden(self, matchers: Sequence[Matcher]) -> NDArray[np.bool_]:
        """Return ``[matchers, vocab]``: true where a token must not come next; ends may come where the text may end."""
        ...


def llguidance_installed() -> bool:
    """Return whether the package ``llguidance``, which compiles constraints, is there."""
    spec = find_spec("llguidance")
    return spec is not None and spec.origin is not None


class GrammarStore:
    """The grammars of one model, compiled on first use; the least recently used of too many are forgotten.

    Safe to use from several threads: the event loop's and the executor's.

    Args:
        make_backend: called once, for the first constraint.
        capacity: grammars kept.
        limit_s: seconds that :meth:`prepare` waits for one.
    """

    def __init__(
        self,
        make_backend: Callable[[], GrammarBackend],
        *,
        capacity: int = MAX_GRAMMARS,
        limit_s: float = COMPILE_LIMIT_S,
    ) -> None:
        self._make_backend, self._capacity, self._limit_s = make_backend, capacity, limit_s
        self._backend: GrammarBackend | None = None
        self._grammars: OrderedDict[Constraint, Grammar] = OrderedDict()
        # Threads of its own: whoever sends grammars that compile slowly keeps only such requests waiting.
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "grammar")
        self._lock = threading.Lock()
        self._backend_lock = (
            threading.Lock()
        )  # of its own: making one takes long, and the event loop looks for grammars

    async def prepare(self, params: SamplingParams) -> None:
        """Compile the constraint, if there is one, without keeping the event loop from its work.

        Raises:
            ParamsError: if it is wrong, or takes too long.
        """
        constraint = params.constraint
        if constraint is None or self._find(constraint) is not None:
            return
        try:
            compiling = asyncio.get_running_loop().run_in_executor(self._threads, self.get, constraint)
            await asyncio.wait_for(compiling, self._limit_s)
        except TimeoutError:  # the thread goes on until it meets the backend's own limits
            raise constraint.error(f"it was not compiled within {self._limit_s:g} s") from None

    def get(self, constraint: Constraint) -> Grammar:
        """Return the constraint's grammar, compiling it now if need be.

        Raises:
            ParamsError: if it is wrong or too complex.
        """
        found = self._find(constraint)
        if found is None:
            found = self.backend.compile(constraint)
            with self._lock:
                self._grammars[constraint] = found
                if len(self._grammars) > self._capacity:
                    self._grammars.popitem(last=False)
        return found

    @property
    def backend(self) -> GrammarBackend:
        """What compiles them.

        Raises:
            ParamsError: if constraints cannot be compiled for this model.
        """
        with self._backend_lock:
            if self._backend is None:
                self._backend = self._make_backend()
            return self._backend

    def _find(self, constraint: Constraint) -> Grammar | None:
        with self._lock:
            if constraint in self._grammars:
                self._grammars.move_to_end(constraint)
            return self._grammars.get(constraint)


class ConstraintFollower:
    """Says what sequences must not take next, and notices where nothing may follow.

    Keeps matchers from one call of :meth:`look_ahead` to the next; those of sequences missing from a call are
    forgotten, and made anew from the sequence's tokens should it come back.

    Args:
        grammars: of the model.
    """

    def __init__(self, grammars: GrammarStore) -> None:
        self._grammars = grammars
        self._followed: dict[int, _Followed] = {}

    def look_ahead(
        self, sequences: Sequence[TokenSequence], device: torch.device
    ) -> tuple[dict[int, Tensor], dict[int, SteelyardError]]:
        """Return what must not come next, and which sequences cannot go on.

        Args:
            sequences: any; those without a constraint do not appear in the results.
            device: of the results.

        Returns:
            Index in ``sequences`` → bool ``[vocab]``, true where forbidden; and sequence id → error.
        """
        known, self._followed = self._followed, {}
        rows = [row for row, sequence in enumerate(sequences) if sequence.params.constraint is not None]
        for row in rows:
            self._followed[sequences[row].id] = self._follow(known.get(sequences[row].id), sequences[row])
        if not rows:
            return {}, {}
        matchers = [self._followed[sequences[row].id].matcher for row in rows]
        forbidden = torch.from_numpy(self._grammars.backend.forbidden(matchers)).to(device)
        failed: dict[int, SteelyardError] = {
            sequences[row].id: _cannot_go_on(sequences[row], matcher.problem)
            for row, matcher in zip(rows, matchers, strict=True)
            if matcher.problem is not None
        }
        going_on = {row: mask for row, mask in zip(rows, forbidden, strict=True) if sequences[row].id not in failed}
        return going_on, failed

    def note(self, sequences: Sequence[TokenSequence], tokens: Sequence[SampledToken]) -> list[SampledToken]:
        """Return the tokens just sampled for the sequences of the latest :meth:`look_ahead`, ends marked as such."""
        return [self._noted(sequence, token) for sequence, token in zip(sequences, tokens, strict=True)]

    def _follow(self, followed: _Followed | None, sequence: TokenSequence) -> _Followed:
        assert sequence.params.constraint is not None
        if followed is None or not followed.precedes(sequence):
            followed = _Followed(sequence, self._grammars.get(sequence.params.constraint).start())
        followed.consume(sequence.tokens[sequence.num_prompt_tokens + len(followed.consumed) :])
        return followed

    def _noted(self, sequence: TokenSequence, token: SampledToken) -> SampledToken:
        followed = self._followed.get(sequence.id)
        if followed is None:
            return token
        followed.consume([token.token_id])
        return replace(token, completes=True) if followed.matcher.is_complete else token


class _Followed:
    """A sequence, its matcher, and the output tokens that the matcher has consumed."""

    __slots__ = ("consumed", "matcher", "sequence")

    def __init__(self, sequence: TokenSequence, matcher: Matcher) -> None:
        self.sequence, self.matcher = sequence, matcher
        self.consumed: list[int] = []

    def precedes(self, sequence: TokenSequence) -> bool:
        """Whether what was consumed begins the sequence's output: a sampled token may have been thrown away since."""
        start = sequence.num_prompt_tokens
        return sequence is self.sequence and sequence.tokens[start : start + len(self.consumed)] == self.consumed

    def consume(self, token_ids: list[int]) -> None:
        if token_ids:
            self.matcher.consume(token_ids)
            self.consumed += token_ids


def check_constraint(params: SamplingParams, grammars: GrammarStore | None) -> None:
    """Check that the constraint, if there is one, can be fulfilled; quick where it was prepared.

    Raises:
        ParamsError: if it is wrong or too complex, or there are no grammars.
    """
    if params.constraint is None:
        return
    if grammars is None:
        raise ParamsError("it needs a model with a tokenizer", field="constraint", remedy="Leave it out")
    grammars.get(params.constraint)


def _cannot_go_on(sequence: TokenSequence, problem: str | None) -> ParamsError:
    assert sequence.params.constraint is not None
    after = f"the text cannot be continued after {sequence.num_output_tokens} tokens"
    return sequence.params.constraint.error(f"{after}: {problem}")
