import json

import pytest

from steelyard.core.errors import ModelError
from steelyard.models.text import hf_files
from steelyard.models.text.hf_tokenizer import tokenizer_from_hf

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def backend(byte_level_trainer):
    return byte_level_trainer(SPECIAL)


@pytest.fixture
def folder(tmp_path, backend):
    (tmp_path / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    return tmp_path


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_no_tokenizer(tmp_path):
    assert tokenizer_from_hf(tmp_path) is None
    assert tokenizer_from_hf(tmp_path / "nowhere") is None


def test_a_bare_tokenizer_file(folder, backend, corpus):
    tokenizer = tokenizer_from_hf(folder)
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_ids == {0, 2}, "control tokens that are known to end a turn"
    for text in corpus:
        assert tokenizer.encode(text, parse_special=True) == backend.encode(text).ids


def test_a_saved_tokenizer_equals_transformers(tmp_path, backend, corpus):
    transformers = pytest.importorskip("transformers")
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        add_bos_token=True,
        add_eos_token=True,
    )
    saved.add_tokens([transformers.AddedToken("<tool>", special=False), transformers.AddedToken("<x>", special=True)])
    saved.save_pretrained(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = tokenizer_from_hf(tmp_path)
    assert (ours.bos_token_id, ours.eos_token_ids) == (1, {0, 2})
    assert ours.vocab_size == len(reference)
    for text in (*corpus, "<tool> <x>"):
        for add in (True, False):
            expected = reference.encode(text, add_special_tokens=add)
            assert ours.encode(text, add_special_tokens=add, parse_special=True) == expected
            assert ours.decode(expected) == reference.decode(expected, skip_special_tokens=True)
    assert ours.encode("a")[0] == 1


def test_end_tokens(folder):
    write(folder, "config.json", {"eos_token_id": 300})
    assert tokenizer_from_hf(folder).eos_token_ids == {0, 2, 300}
    write(folder, "generation_config.json", {"eos_token_id": [301, 302, 1 << 40]})
    assert tokenizer_from_hf(folder).eos_token_ids == {0, 2, 301, 302}
    write(folder, "special_tokens_map.json", {"eos_token": {"content": "<|im_start|>"}})
    assert tokenizer_from_hf(folder).eos_token_ids == {0, 1, 2, 301, 302}


def test_special_tokens_that_only_the_settings_name(folder, backend):
    letter = backend.token_to_id("a")
    write(folder, "tokenizer_config.json", {"additional_special_tokens": ["a", {"content": "b"}, "not there"]})
    tokenizer = tokenizer_from_hf(folder)
    assert tokenizer.special_token_ids == {0, 1, 2, letter, backend.token_to_id("b")}
    assert letter not in tokenizer.encode("a")


def test_added_tokens_that_only_the_settings_list(folder, backend):
    size = backend.get_vocab_size()
    entries = {
        "1": {"content": "<|im_start|>", "special": True},
        str(size + 1): {"content": "<b>", "special": False},
        str(size): {"content": "<a>", "special": True},
    }
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": entries})
    tokenizer = tokenizer_from_hf(folder)
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.encode("<a><b>", parse_special=True) == [size, size + 1]
    assert size not in tokenizer.encode("<a><b>")


def test_begin_and_end_tokens_from_the_settings(folder):
    (a,) = tokenizer_from_hf(folder).encode("a")
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": True}
    write(folder, "tokenizer_config.json", settings)
    assert tokenizer_from_hf(folder).encode("a") == [1, a]
    write(folder, "tokenizer_config.json", {**settings, "add_bos_token": False, "add_eos_token": True})
    assert tokenizer_from_hf(folder).encode("a") == [a, 2]
    write(folder, "tokenizer_config.json", {"add_bos_token": True})
    assert tokenizer_from_hf(folder).encode("a") == [a], "a token that nobody names cannot be added"


def test_sentencepiece_alone(tmp_path, sentencepiece_trainer, corpus):
    sentencepiece = pytest.importorskip("sentencepiece")
    content = sentencepiece_trainer()
    (tmp_path / "tokenizer.model").write_bytes(content)
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    tokenizer = tokenizer_from_hf(tmp_path)
    for text in corpus:
        assert tokenizer.encode(text) == [1, *processor.encode(text)]
    write(tmp_path, "tokenizer_config.json", {"add_bos_token": False, "add_eos_token": True})
    assert tokenizer_from_hf(tmp_path).encode("a") == [*processor.encode("a"), 2]
    (tmp_path / "tokenizer.model").write_bytes(content[:-100])
    with pytest.raises(ModelError) as caught:
        tokenizer_from_hf(tmp_path)
    assert caught.value.field


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("tokenizer.json", b"{", "tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json"),
        ("tokenizer.json", b"", "tokenizer.json"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json"),
        ("tokenizer_config.json", b'{"eos_token": 3}', "tokenizer_config.json[eos_token]"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": 3}', "tokenizer_config.json[added_tokens_decoder]"),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"x": {}}}',
            "tokenizer_config.json[added_tokens_decoder]",
        ),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"9999": {"content": "q"}}}', "tokenizer.json"),
        ("tokenizer_config.json", b'{"additional_special_tokens": 3}', None),
        ("tokenizer_config.json", b'{"additional_special_tokens": [3]}', None),
        ("special_tokens_map.json", b"3", "special_tokens_map.json"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "generation_config.json[eos_token_id]"),
        ("generation_config.json", b'{"eos_token_id": [1.5]}', "generation_config.json[eos_token_id]"),
        ("config.json", b'{"eos_token_id": true}', "config.json[eos_token_id]"),
    ],
)
def test_corrupt_files_are_named(folder, name, content, field):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        tokenizer_from_hf(folder)
    assert field is None or caught.value.field == field


def test_reading_is_bounded(folder):
    with pytest.raises(ModelError, match="longer than"):
        hf_files.read_text(folder / "tokenizer.json", max_bytes=100)
    assert hf_files.read_text(folder / "absent") is None


def test_a_directory_in_a_files_place(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    assert tokenizer_from_hf(tmp_path) is None
