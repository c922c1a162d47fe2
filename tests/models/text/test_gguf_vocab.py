import math

import pytest

from steelyard.core.errors import ModelError
from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.text.gguf_vocab import MAX_TOKEN_CHARS, PREFIX, TokenType, read_vocab


def metadata(**changes):
    good = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["<e>", "a", "b", "ab"],
        "token_type": [3, 1, 1, 1],
        "merges": ["a b"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "add_bos_token": False,
    }
    return {PREFIX + name: value for name, value in {**good, **changes}.items() if value is not None}


def test_good_metadata():
    vocab = read_vocab(metadata(eot_token_id=2, padding_token_id=1, scores=[0, -1, -2.5, 0], add_space_prefix=True))
    assert vocab.types == (TokenType.CONTROL, TokenType.NORMAL, TokenType.NORMAL, TokenType.NORMAL)
    assert vocab.merges == (("a", "b"),)
    assert vocab.scores == (0.0, -1.0, -2.5, 0.0)
    assert vocab.end_token_ids == {0, 2}
    assert vocab.special_token_ids == {0, 1, 2}
    assert (vocab.add_bos, vocab.add_eos, vocab.add_space_prefix) == (False, None, True)
    assert tokenizer_from_gguf(metadata()).encode("ab a") == [3, 1]


def test_types_default_to_normal():
    assert set(read_vocab(metadata(token_type=None)).types) == {TokenType.NORMAL}


def test_merges_may_begin_with_a_space():
    vocab = read_vocab(metadata(tokens=["<e>", " ", "b", " b"], merges=["  b"]))
    assert vocab.merges == ((" ", "b"),)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("model", None, "not a known kind"),
        ("model", "bert", "not a known kind"),
        ("model", 3, "not a string"),
        ("pre", ["x"], "not a string"),
        ("pre", "nobody-knows", "qwen2"),
        ("tokens", None, "no vocabulary"),
        ("tokens", "abcd", "not an array"),
        ("tokens", ["a", 3, "b", "ab"], "entry 1 is int"),
        ("tokens", ["a", "b", "ab", "a"], "entries 0 and 3 are the same"),
        ("tokens", ["x" * (MAX_TOKEN_CHARS + 1), "a", "b", "ab"], "over the limit"),
        ("token_type", [1, 1, 1], "do not match the 4 tokens"),
        ("token_type", [1, 1, 1, 9], "entry 3"),
        ("token_type", [1, 1, 1, True], "entry 3"),
        ("token_type", [1, 1, 1, 1.0], "entry 3"),
        ("scores", [0.0], "do not match the 4 tokens"),
        ("scores", [0.0, math.nan, 0.0, 0.0], "finite"),
        ("scores", [0.0, "x", 0.0, 0.0], "finite"),
        ("merges", [7], "entry 0"),
        ("merges", ["ab"], "entry 0"),
        ("merges", ["a c"], "no tokens"),
        ("merges", ["b a"], "no tokens"),
        ("bos_token_id", 4, "not a token id from 0 to 3"),
        ("bos_token_id", -1, "not a token id"),
        ("eos_token_id", "2", "not a token id"),
        ("eot_token_id", True, "not a token id"),
        ("eos_token_id", 1 << 70, "not a token id"),
        ("unknown_token_id", 2.0, "not a token id"),
        ("add_bos_token", 1, "not true or false"),
        ("add_space_prefix", "yes", "not true or false"),
    ],
)
def test_hostile_metadata_names_its_key(key, value, problem):
    with pytest.raises(ModelError, match=problem) as caught:
        tokenizer_from_gguf(metadata(**{key: value}))
    assert caught.value.field == PREFIX + key


@pytest.mark.parametrize("key", ["tokens", "token_type", "scores", "merges"])
def test_gigantic_arrays_are_refused_before_they_are_looked_at(key):
    with pytest.raises(ModelError, match="over the limit") as caught:
        tokenizer_from_gguf(metadata(**{key: [None] * (1 << 23)}))
    assert caught.value.field == PREFIX + key


def test_a_vocabulary_of_too_many_characters_is_refused():
    tokens = [f"{i:01000}" for i in range(17_000)]
    with pytest.raises(ModelError, match="characters"):
        read_vocab(metadata(tokens=tokens, token_type=None, merges=None))


def test_texts_cannot_begin_with_a_token_that_is_not_named():
    for flag, name in (("add_bos_token", "bos_token_id"), ("add_eos_token", "eos_token_id")):
        with pytest.raises(ModelError, match="does not name") as caught:
            tokenizer_from_gguf(metadata(**{flag: True, name: None}))
        assert caught.value.field == PREFIX + name


def test_sentencepiece_needs_scores():
    with pytest.raises(ModelError, match="without scores") as caught:
        tokenizer_from_gguf(metadata(model="llama", merges=None))
    assert caught.value.field == PREFIX + "scores"


def test_byte_level_needs_merges():
    tokens = [f"t{i}" for i in range(400)]
    with pytest.raises(ModelError, match="without merges") as caught:
        tokenizer_from_gguf(metadata(tokens=tokens, token_type=None, merges=None))
    assert caught.value.field == PREFIX + "merges"
