import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import PromptError
from steelyard.models.text.detokenizer import IncrementalDetokenizer
from steelyard.models.text.tokenizer import Tokenizer

# SmolLM2 has no tokens for the bytes of characters past plane 3, control codes and a few others.
ENCODABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc", "Cn", "Co"]))

RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)


@pytest.fixture(scope="module")
def spaced(sentencepiece_spec):
    return Tokenizer(sentencepiece_spec(), bos_token_id=1, eos_token_ids={2})


def stream(tokenizer, ids, **options):
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@given(st.lists(st.integers(0, 49151), max_size=40), st.booleans())
@RELAXED
def test_any_byte_level_ids_stream_to_what_they_decode_to(smollm, ids, skip):
    pieces = stream(smollm, ids, skip_special_tokens=skip)
    assert "".join(pieces) == smollm.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.integers(0, 450) | st.integers(3, 258), max_size=40), st.booleans())
@RELAXED
def test_any_sentencepiece_ids_stream_to_what_they_decode_to(spaced, ids, skip):
    ids = [i for i in ids if i < spaced.vocab_size]
    assert "".join(stream(spaced, ids, skip_special_tokens=skip)) == spaced.decode(ids, skip_special_tokens=skip)


@given(ENCODABLE)
@RELAXED
def test_valid_text_never_shows_a_replacement_character(smollm, spaced, text):
    for tokenizer in (smollm, spaced):
        expected = text if tokenizer is smollm else text.replace("▁", " ").removeprefix(" ")
        pieces = stream(tokenizer, tokenizer.encode(text))
        assert "".join(pieces) == expected
        assert "".join(pieces).count("\ufffd") == text.count("\ufffd")
        assert pieces[-1] == ""


def test_half_a_character_waits(smollm):
    ids = smollm.encode("a🧑b")
    pieces = stream(smollm, ids)
    assert [piece for piece in pieces if piece] == ["a", "🧑", "b"]
    assert "" in pieces[:-1]


def test_an_unfinished_character_comes_out_at_the_end(smollm):
    ids = smollm.encode("🧑")[:-1]
    *pieces, last = stream(smollm, ids)
    assert "".join(pieces) == ""
    assert last == "\ufffd"


def test_what_cannot_become_a_character_does_not_wait(spaced):
    detokenizer = IncrementalDetokenizer(spaced)
    assert detokenizer.push(3 + 0xE4) == ""
    assert detokenizer.push(3 + ord("a")) == "\ufffda"


def test_the_leading_space_goes_unless_text_stands_before(spaced):
    the = spaced.encode("the the", add_special_tokens=False)
    assert "".join(stream(spaced, the)) == "the the"
    assert "".join(stream(spaced, the, continues_text=True)) == " the the"


def test_special_tokens(smollm):
    assert stream(smollm, [1, 2]) == ["", "", ""]
    assert stream(smollm, [1, 2], skip_special_tokens=False) == ["<|im_start|>", "<|im_end|>", ""]


def test_flush_starts_anew(smollm):
    detokenizer = IncrementalDetokenizer(smollm)
    detokenizer.push(smollm.encode("🧑")[0])
    detokenizer.flush()
    assert detokenizer.push(smollm.encode("a")[0]) == "a"
    assert detokenizer.flush() == ""


def test_padding_ids_have_no_text_and_negative_ones_are_refused(smollm):
    assert stream(smollm, [smollm.vocab_size, 1 << 40]) == ["", "", ""]
    with pytest.raises(PromptError):
        IncrementalDetokenizer(smollm).push(-1)
