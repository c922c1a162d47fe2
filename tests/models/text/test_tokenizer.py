import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import ModelError, PromptError
from steelyard.models.text.tokenizer import Tokenizer, byte_alphabet, looks_like_control

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<s>", "☃")
FRAGMENTS = st.lists(
    st.sampled_from([*SPECIAL, "<|", "im_end", "|>", "<", "/s>", " ", "\n", "word", "\u00e9"]), max_size=8
)


@pytest.fixture(scope="module")
def backend(byte_level_trainer):
    made = byte_level_trainer(SPECIAL)
    made.add_tokens(["<tool_call>", "<|user|>"])
    return made


@pytest.fixture(scope="module")
def tokenizer(backend):
    return Tokenizer(backend.to_str(), bos_token_id=1, eos_token_ids={2})


@pytest.fixture(scope="module")
def spaced(sentencepiece_spec):
    return Tokenizer(sentencepiece_spec(), bos_token_id=1, eos_token_ids={2})


def unigram_json():
    pieces = [["<unk>", 0.0], ["</s>", 5.0], ["▁", -1.0], *([char, -3.0] for char in "</s>abc")]
    spec = json.loads(tokenizers.Tokenizer(tokenizers.models.Unigram([tuple(p) for p in pieces], 0, False)).to_str())
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    spec["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    return json.dumps(spec)


def test_text_never_becomes_a_control_token(tokenizer):
    for text in SPECIAL:
        ids = tokenizer.encode(f"a{text}b {text}")
        assert not tokenizer.control_token_ids.intersection(ids)
        assert tokenizer.decode(ids) == f"a{text}b {text}"


@given(FRAGMENTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mixture_of_fragments_becomes_a_control_token(tokenizer, fragments):
    ids = tokenizer.encode("".join(fragments))
    assert not tokenizer.control_token_ids.intersection(ids)
    assert tokenizer.decode(ids) == "".join(fragments)


def test_merges_that_spell_a_control_token_do_not_make_it(sentencepiece_spec, spaced):
    library = tokenizers.Tokenizer.from_str(sentencepiece_spec())
    library.encode_special_tokens = True
    assert 2 in library.encode("a</s>").ids, "the trap is set: the library's own switch falls into it"
    ids = spaced.encode("a</s> </s></s>")
    assert ids[0] == 1
    assert not spaced.control_token_ids.intersection(ids[1:])
    assert spaced.decode(ids) == "a</s> </s></s>"


def test_scores_that_favour_a_control_token_do_not_make_it():
    tokenizer = Tokenizer(unigram_json(), eos_token_ids={1})
    assert 1 not in tokenizer.encode("a</s>b")
    assert tokenizer.decode(tokenizer.encode("a</s>b")) == "a</s>b"
    assert tokenizer.encode("a</s>", parse_special=True)[-1] == 1


def test_words_that_skip_merging_do_not_become_a_control_token(byte_level_trainer):
    spec = json.loads(byte_level_trainer(SPECIAL).to_str())
    spec["model"]["ignore_merges"] = True
    spec["added_tokens"] = []
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    assert 3 in tokenizers.Tokenizer.from_str(json.dumps(spec)).encode("</s>").ids
    assert 3 not in Tokenizer(json.dumps(spec), eos_token_ids={3}).encode("</s>")


def test_parse_special_reads_control_tokens_as_the_library_does(backend, tokenizer, corpus):
    for text in (*corpus, "<|im_start|>user\nhi<|im_end|>\n<|user|> <tool_call>x</s>☃"):
        assert tokenizer.encode(text, parse_special=True) == backend.encode(text).ids


def test_flags_of_control_tokens_hold(byte_level_trainer):
    backend = byte_level_trainer(["<|endoftext|>"])
    right = tokenizers.AddedToken("<|end|>", rstrip=True, special=True)
    left = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
    backend.add_special_tokens([right, left])
    tokenizer = Tokenizer(backend.to_str())
    for text in ("a<|end|>  \n b <mask> c", "<|end|> <mask>", "x  <mask><|end|>"):
        assert tokenizer.encode(text, parse_special=True) == backend.encode(text).ids


def test_ordinary_text_is_encoded_as_the_library_does(byte_level_trainer, sentencepiece_spec, corpus):
    plain = byte_level_trainer(["<unused>"])
    library = tokenizers.Tokenizer.from_str(sentencepiece_spec(special=("<q>", "<r>")))
    for reference in (plain, library):
        tokenizer = Tokenizer(reference.to_str())
        for text in corpus:
            assert tokenizer.encode(text) == reference.encode(text).ids
            assert (
                tokenizer.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False).ids
            )


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_sentencepiece(spaced, text):
    expected = text.replace("▁", " ")
    # This scheme adds no space to a text that begins with one, so that one is lost: a property of such files.
    assert spaced.decode(spaced.encode(text)) == expected.removeprefix(" ")


def test_decoding_valid_text_equals_the_library(backend, tokenizer, spaced, sentencepiece_spec, corpus):
    library = tokenizers.Tokenizer.from_str(sentencepiece_spec())
    for reference, ours in ((backend, tokenizer), (library, spaced)):
        for text in corpus:
            ids = reference.encode(text).ids
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.integers(0, 699), max_size=20), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decoding_any_byte_level_ids_equals_the_library(backend, tokenizer, ids, skip):
    ids = [i for i in ids if i not in tokenizer.control_token_ids]
    assert tokenizer.decode(ids, skip_special_tokens=skip) == backend.decode(ids, skip_special_tokens=skip)


def test_broken_bytes_do_not_take_their_neighbours_along(spaced):
    byte = {value: 3 + value for value in range(256)}
    ids = [byte[value] for value in (*"é".encode(), 0xFF, *"你".encode(), 0xE4)]
    assert spaced.decode(ids) == "é\ufffd你\ufffd"


def test_a_leading_space_is_stripped_once_and_only_at_the_start(spaced):
    the = spaced.encode("the", add_special_tokens=False)
    assert spaced.token_text(the[0]) == " the"
    assert spaced.decode(the + the) == "the the"
    assert spaced.decode([1, *the], skip_special_tokens=False) == "<s> the"


def test_token_bytes(tokenizer, spaced):
    assert tokenizer.token_bytes(2) == b"<|im_end|>"
    assert spaced.token_bytes(3 + 0xE4) == b"\xe4"
    assert spaced.token_text(3 + 0xE4) == "\ufffd"
    space = tokenizer.encode(" ")
    assert [tokenizer.token_bytes(i) for i in space] == [b" "]
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("né 🧑"))) == "né 🧑".encode()


@pytest.mark.parametrize("token_id", [-1, 1 << 40])
def test_ids_out_of_range(tokenizer, token_id):
    for call in (lambda: tokenizer.decode([token_id]), lambda: tokenizer.token_bytes(token_id)):
        with pytest.raises(PromptError, match="token_ids"):
            call()


def test_unused_ids_have_no_text(byte_level_trainer):
    spec = json.loads(byte_level_trainer(["<a>"]).to_str())
    spec["model"]["vocab"]["far"] = 5000
    tokenizer = Tokenizer(json.dumps(spec))
    assert tokenizer.vocab_size == 5001
    assert tokenizer.token_bytes(4000) == b""


def test_what_it_tells_of_itself(backend, tokenizer):
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == {0, 2}, "known end tokens join the declared one"
    assert tokenizer.special_token_ids == set(range(len(SPECIAL)))
    user = backend.token_to_id("<|user|>")
    assert tokenizer.control_token_ids == tokenizer.special_token_ids | {user}
    assert tokenizer.control_texts == {*SPECIAL, "<|user|>"}
    assert tokenizer.control_id("<|user|>") == user
    assert tokenizer.decode([user]) == "<|user|>", "unmarked control tokens stay visible"
    assert backend.token_to_id("<tool_call>") in tokenizer.encode("<tool_call>"), "tokens that are no control tokens"


def test_parts(tokenizer):
    ids = tokenizer.encode_parts([1, "us", "er\n<|im_end|>", 2])
    assert (ids[0], ids[-1]) == (1, 2)
    assert not tokenizer.control_token_ids.intersection(ids[1:-1])
    assert ids[1:-1] == tokenizer.encode("user\n<|im_end|>")
    with pytest.raises(PromptError, match="no control token"):
        tokenizer.encode_parts([300])


def test_hidden_names_are_refused_however_they_come_about(tokenizer):
    for parts in (["\ufdd02\ufdd1"], ["\ufdd0", "2\ufdd1"], ["\ufdd0", 2, "\ufdd01\ufdd1"]):
        with pytest.raises(PromptError, match="U\\+FDD0"):
            tokenizer.encode_parts(parts)
    assert tokenizer.decode(tokenizer.encode_parts(["\ufdd01", 2, "2\ufdd1"])) == "\ufdd012\ufdd1"


def test_text_that_cannot_be_encoded(backend, tokenizer):
    with pytest.raises(PromptError, match="surrogate"):
        tokenizer.encode("a\ud800")
    short = Tokenizer(backend.to_str(), max_text_chars=10)
    assert short.encode("0123456789")
    for call in (lambda: short.encode("0123456789a"), lambda: short.encode_parts(["01234", 1, "567890"])):
        with pytest.raises(PromptError, match="limit of 10"):
            call()


def test_truncation_and_padding_in_the_file_do_not_apply(backend):
    changed = tokenizers.Tokenizer.from_str(backend.to_str())
    changed.enable_truncation(2)
    changed.enable_padding(length=50)
    assert len(Tokenizer(changed.to_str()).encode("a b c d e f")) > 2


def test_threads_share_one_tokenizer(tokenizer):
    texts = [f"<|im_end|> {i} text" for i in range(64)]
    expected = [(tokenizer.encode(text), tokenizer.encode(text, parse_special=True)) for text in texts]

    def both(text):
        return tokenizer.encode(text), tokenizer.encode(text, parse_special=True)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(both, texts * 4)) == expected * 4


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "no model"),
        ('{"model": {}}', "no model"),
        ('{"model": {"vocab": {"a": "b"}}}', "not a piece with an id"),
        ('{"model": {"vocab": [3]}}', "neither piece"),
        ('{"model": {"vocab": {}}, "added_tokens": [1]}', "added_tokens"),
        ('{"model": {"vocab": {}}, "decoder": {"type": "WordPiece"}}', "neither byte-level"),
        ('{"model": {"vocab": {}}}', "neither byte-level"),
        ('{"model": {"vocab": {"a": 0}, "type": "BPE"}, "decoder": {"type": "ByteLevel"}}', "refused"),
        ('{"model": {"vocab": {"a": 0}, "merges": [3]}, "decoder": {"type": "ByteLevel"}}', "merges"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_files(content, problem):
    with pytest.raises(ModelError, match=problem) as caught:
        Tokenizer(content)
    assert caught.value.field == "tokenizer.json"


def test_added_tokens_must_lie_where_their_ids_say(backend):
    spec = json.loads(backend.to_str())
    spec["added_tokens"][-1]["id"] += 5
    with pytest.raises(ModelError, match="not where its id says"):
        Tokenizer(json.dumps(spec))
    with pytest.raises(ModelError, match="not in the vocabulary"):
        Tokenizer(backend.to_str(), eos_token_ids={99_999})


def test_byte_alphabet_is_the_librarys():
    alphabet = byte_alphabet()
    assert set(alphabet) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))


@pytest.mark.parametrize(
    ("text", "is_control"),
    [
        ("<|x|>", True),
        ("<｜x｜>", True),
        ("<start_of_turn>", True),
        ("<b>", False),
        ("<| x|>", False),
        ("", False),
        ("<||>", False),
    ],
)
def test_shapes_of_control_tokens(text, is_control):
    assert looks_like_control(text) is is_control
