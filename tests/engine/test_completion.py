"""A completion is read as a whole or from a bookmark on; both ways of growing it give the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from steelyard.core.params import SamplingParams
from steelyard.core.request import CompletionOutput, FinishReason, SampledToken, TokenLogprob
from steelyard.core.sequence import Sequence
from steelyard.engine.completion import Bookmark, CompletionState, GrowingText
from steelyard.engine.response import Completion
from steelyard.fleet.engine import StreamedCompletion
from steelyard.fleet.replica import Increment

TOKENS = tuple(SampledToken(number, TokenLogprob(number, -0.5 * number, 1)) for number in range(10, 17))


class Spelling:
    """Spells each token as its number; the last one's text becomes definite only at the end."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, token_id: int) -> str:
        definite, self._held = self._held, f"<{token_id}>"
        return definite

    def flush(self) -> str:
        return self._held


def engines_own() -> Iterator[Completion]:
    """Yield a completion after each token, and after its end."""
    params = SamplingParams(max_tokens=len(TOKENS), logprobs=0)
    sequence = Sequence(id=0, request_id="r", index=3, prompt=(1, 2), params=params, seed=0, arrival_s=0.0)
    state = CompletionState(sequence, frozenset(), 100, lambda params: Spelling())
    for token in TOKENS:
        state.push(token)
        yield state


def streamed() -> Iterator[Completion]:
    """Yield the same completion as a fleet keeps it."""
    completion = StreamedCompletion(3, keeps_logprobs=True)
    pieces = ["", *(f"<{token.token_id}>" for token in TOKENS)]
    for token, piece in zip(TOKENS[:-1], pieces, strict=False):
        completion.add(Increment(tokens=(token,), text=piece))
        yield completion
    last = Increment(tokens=TOKENS[-1:], text="".join(pieces[-2:]), finish_reason=FinishReason.LENGTH)
    completion.add(last)
    yield completion


BOTH = pytest.mark.parametrize("grow", [engines_own, streamed])


@BOTH
@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_what_is_read_in_parts_is_the_whole(grow: Callable[[], Iterator[Completion]], every: int) -> None:
    mark, parts = Bookmark(), list[CompletionOutput]()
    for number, completion in enumerate(grow(), 1):
        if number % every == 0 or number == len(TOKENS):
            part = completion.read(mark)
            assert part is not None
            parts.append(part)
    whole = completion.snapshot()
    assert "".join(part.text for part in parts) == whole.text == "".join(f"<{t.token_id}>" for t in TOKENS)
    assert sum((part.token_ids for part in parts), ()) == whole.token_ids == tuple(t.token_id for t in TOKENS)
    assert sum((part.logprobs or () for part in parts), ()) == whole.logprobs == TOKENS
    assert {part.finish_reason for part in parts[:-1]} <= {None}
    assert parts[-1].finish_reason is whole.finish_reason is FinishReason.LENGTH
    assert whole.index == parts[0].index == 3


@BOTH
def test_nothing_is_read_twice_and_every_reader_has_a_bookmark(grow: Callable[[], Iterator[Completion]]) -> None:
    mark = Bookmark()
    for completion in grow():
        part = completion.read(mark)
        assert part is not None
        assert len(part.token_ids) == 1
        assert completion.read(mark) is None
    assert completion.read(Bookmark()) == completion.snapshot()


@BOTH
def test_an_end_without_a_token_is_news(grow: Callable[[], Iterator[Completion]]) -> None:
    completion, mark = next(grow()), Bookmark()
    completion.read(mark)
    completion.end(FinishReason.CANCELLED)
    part = completion.read(mark)
    assert part is not None
    assert part.token_ids == ()
    assert part.finish_reason is FinishReason.CANCELLED


def test_growing_text_is_whole_however_often_it_is_asked_for() -> None:
    text = GrowingText()
    assert text.whole() == ""
    for number in range(5):
        text.append(str(number))
        if number % 2:
            assert text.whole() == "01234"[: number + 1]
    assert (text.whole(), text.since(3), text.since(len(text)), len(text)) == ("01234", "34", "", 5)
