"""Stop decisions and the text they release, against a plain reading of the whole text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steelyard.core.params import SamplingParams
from steelyard.core.request import FinishReason
from steelyard.engine.stopping import StopChecker, StopDecision, StringMatcher

EOS = frozenset({2, 3})


def make(*, num_prompt_tokens=1, max_model_len=10_000, eos=EOS, **params) -> StopChecker:
    params.setdefault("max_tokens", None)
    return StopChecker(
        SamplingParams(**params), eos_token_ids=eos, num_prompt_tokens=num_prompt_tokens, max_model_len=max_model_len
    )


def stream(checker: StopChecker, pieces: list[str], tail: str = "") -> tuple[list[str], StopDecision | None]:
    """Push ordinary tokens until one ends it; return every take and the final decision."""
    takes = []
    for piece in pieces:
        decision = checker.push(10, piece)
        takes.append(checker.take())
        if decision is not None:
            break
    decision = checker.close(tail)
    takes.append(checker.take())
    return takes, decision


def first_match(text: str, stops: list[str], ignored_up_to: int = 0) -> tuple[int, int, str] | None:
    """(end, start, stop) of the match that completes first beyond ``ignored_up_to``; the longest of equals."""
    for end in range(ignored_up_to + 1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return end, end - len(longest), longest
    return None


def test_eos_ends_and_its_text_is_dropped():
    checker = make()
    assert checker.push(7, "Hi") is None
    assert checker.push(3, "</s>") == StopDecision(FinishReason.STOP, None)
    assert checker.decision == StopDecision(FinishReason.STOP, None)
    checker.close()
    assert checker.take() == "Hi"


def test_ignored_eos_is_an_ordinary_token_unless_also_a_stop_token():
    assert make(ignore_eos=True).push(2, "x") is None
    assert make(ignore_eos=True, stop_token_ids=(2,)).push(2, "x") == StopDecision(FinishReason.STOP, 2)
    assert make(stop_token_ids=(2,)).push(2, "x") == StopDecision(FinishReason.STOP, None)


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "ab~")])
def test_stop_token_names_itself_and_its_text_follows_the_flag(include, text):
    checker = make(stop_token_ids=(50,), include_stop_str_in_output=include)
    checker.push(1, "a")
    assert checker.push(50, "b") == StopDecision(FinishReason.STOP, 50)
    assert checker.close("~") == StopDecision(FinishReason.STOP, 50)
    assert checker.take() == text


def test_a_stop_token_releases_held_text_and_wins_over_a_stop_string():
    checker = make(stop=("xyz",), stop_token_ids=(50,), include_stop_str_in_output=False)
    checker.push(1, "axy")
    assert checker.take() == "a"
    assert checker.push(50, "z") == StopDecision(FinishReason.STOP, 50)
    checker.close()
    assert checker.take() == "xy"


def test_max_tokens_and_context_length():
    checker = make(max_tokens=2)
    assert checker.push(1, "a") is None
    assert checker.push(1, "b") == StopDecision(FinishReason.LENGTH)
    checker = make(num_prompt_tokens=5, max_model_len=7)
    assert checker.push(1, "a") is None
    assert checker.push(1, "b") == StopDecision(FinishReason.LENGTH)
    checker = make(num_prompt_tokens=5, max_model_len=7, max_tokens=1)
    assert checker.push(1, "a") == StopDecision(FinishReason.LENGTH)


def test_stop_strings_and_tokens_win_over_length():
    assert make(max_tokens=1, stop=("b",)).push(1, "ab") == StopDecision(FinishReason.STOP, "b")
    assert make(max_tokens=1).push(2, "") == StopDecision(FinishReason.STOP)


def test_held_text_is_released_at_length():
    checker = make(max_tokens=1, stop=("###",))
    assert checker.push(1, "a##") == StopDecision(FinishReason.LENGTH)
    assert checker.take() == "a"
    checker.close("!")
    assert checker.take() == "##!"


def test_the_tail_can_complete_a_stop_string():
    checker = make(max_tokens=1, stop=("##�",))
    assert checker.push(1, "a##") == StopDecision(FinishReason.LENGTH)
    assert checker.close("�b") == StopDecision(FinishReason.STOP, "##�")
    assert checker.take() == "a"


def test_close_without_a_decision_releases_everything_once():
    checker = make(stop=("abc",))
    checker.push(1, "xab")
    assert checker.close() is None
    assert checker.take() == "xab"
    assert checker.close() is None
    assert checker.take() == ""


def test_stop_string_across_tokens_is_held_back_then_truncated():
    checker = make(stop=("</end>",))
    shown = []
    for piece in ("one <", "/e", "nd", "x </e", "nd> two"):
        decision = checker.push(1, piece)
        shown.append(checker.take())
    assert shown == ["one ", "", "", "</endx ", ""]
    assert decision == StopDecision(FinishReason.STOP, "</end>")


def test_a_character_that_comes_late_as_one_piece():
    # A detokenizer gives nothing for the first bytes of a character, then all of it.
    takes, decision = stream(make(stop=("日本",)), ["", "", "今日", "", "", "本人"])
    assert "".join(takes) == "今"
    assert decision == StopDecision(FinishReason.STOP, "日本")


def test_include_stop_string_cuts_after_it_and_holds_nothing_back():
    checker = make(stop=("END",), include_stop_str_in_output=True)
    checker.push(1, "a E")
    assert checker.take() == "a E"
    assert checker.push(1, "ND tail") == StopDecision(FinishReason.STOP, "END")
    assert checker.take() == "ND"


def test_of_overlapping_stop_strings_the_first_to_complete_wins():
    takes, decision = stream(make(stop=("abcd", "bc")), ["xabcd"])
    assert ("".join(takes), decision.stop_reason) == ("xa", "bc")
    takes, decision = stream(make(stop=("bc", "abc")), ["xabc"])
    assert ("".join(takes), decision.stop_reason) == ("x", "abc")


def test_min_tokens_ignores_ending_tokens_before_it():
    checker = make(min_tokens=2, stop_token_ids=(50,))
    assert checker.push(2, "a") is None
    assert checker.push(50, "b") == StopDecision(FinishReason.STOP, 50)


def test_min_tokens_defers_stop_strings():
    checker = make(min_tokens=3, stop=("aa",))
    assert checker.push(1, "aa") is None
    assert checker.push(1, "b") is None
    assert checker.push(1, "ca") is None
    assert checker.push(1, "a!") == StopDecision(FinishReason.STOP, "aa")
    assert checker.take() == "aabc"


def test_a_stop_string_begun_before_min_tokens_counts_when_it_completes_after():
    checker = make(min_tokens=2, stop=("aa",))
    assert checker.push(1, "aa") is None  # ignored, but its last letter begins another
    assert checker.take() == "a"
    assert checker.push(1, "a") == StopDecision(FinishReason.STOP, "aa")
    assert checker.take() == ""


def test_pushing_after_the_end_is_our_bug():
    checker = make(max_tokens=1)
    checker.push(1, "a")
    with pytest.raises(AssertionError):
        checker.push(1, "b")


LETTERS = st.text(alphabet="ab", max_size=6)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


@settings(deadline=None)
@given(
    pieces=st.lists(LETTERS, max_size=12),
    stops=STOPS,
    min_tokens=st.integers(0, 5),
    include=st.booleans(),
    tail=LETTERS,
)
@example(pieces=["ab", "ab", "aa"], stops=["abaa", "b"], min_tokens=2, include=False, tail="")
def test_any_stream_equals_the_plain_truncation_and_never_retracts(pieces, stops, min_tokens, include, tail):
    takes, decision = stream(
        make(stop=tuple(stops), min_tokens=min_tokens, include_stop_str_in_output=include), pieces, tail
    )
    ignored = len("".join(pieces[: max(0, min_tokens - 1)]))
    text = "".join(pieces) + ("" if len(pieces) < min_tokens else tail)
    match = first_match(text, stops, ignored)
    if match is None:
        assert decision is None
        assert "".join(takes) == "".join(pieces) + tail
    else:
        end, start, stop = match
        assert decision == StopDecision(FinishReason.STOP, stop)
        assert "".join(takes) == text[: end if include else start]


@settings(deadline=None)
@given(pieces=st.lists(LETTERS, min_size=1, max_size=12), stops=STOPS.filter(bool))
def test_no_more_is_held_back_than_a_stop_string_could_claim(pieces, stops):
    checker, shown, text = make(stop=tuple(stops)), "", ""
    for piece in pieces:
        text += piece
        if checker.push(1, piece) is not None:
            return
        shown += checker.take()
        held = text[len(shown) :]
        assert text == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
        longest = max(k for stop in stops for k in range(len(stop)) if text.endswith(stop[:k]))
        assert len(held) == longest


@settings(deadline=None)
@given(text=st.text(alphabet="abc", max_size=60), stops=STOPS, cut=st.data())
def test_the_cut_into_pieces_makes_no_difference(text, stops, cut):
    borders = sorted(cut.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    whole, whole_decision = stream(make(stop=tuple(stops)), [text])
    parts, parts_decision = stream(make(stop=tuple(stops)), pieces)
    assert "".join(whole) == "".join(parts)
    assert whole_decision == parts_decision


@settings(deadline=None)
@given(target=st.text(alphabet="ab", min_size=1, max_size=8), text=st.text(alphabet="ab", max_size=40))
def test_matcher_reports_every_occurrence(target, text):
    matcher = StringMatcher(target)
    ends = [i for i, char in enumerate(text, 1) if matcher.feed(char)]
    assert ends == [i for i in range(1, len(text) + 1) if text[:i].endswith(target)]
